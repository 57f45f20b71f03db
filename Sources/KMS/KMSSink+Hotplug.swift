internal import Linux
internal import Logging
internal import Scanout
internal import SystemPackage

// Screens that are plugged in and out. The kernel announces it; what the connectors say then is what counts.
extension KMSSink {
  func watchHotplug() {
    do throws(Errno) {
      let socket = try DeviceEventSocket()
      hotplugToken = try loop.add(socket.fd) { [unowned self] _ in takeAnnouncements() }
      hotplug = consume socket
    } catch {
      log.info(
        "screens that are plugged in later go unnoticed: the kernel's announcements cannot be heard: \(error)"
      )
    }
  }

  private func takeAnnouncements() {
    var (isGone, mayHaveChanged) = (false, false)
    let heardAll = hotplug?.drain { event in
      guard event["SUBSYSTEM"] == "drm", let number = event.number, number == card.number else { return }
      switch event["ACTION"] {
      case "remove": isGone = true
      // What a person triggers by hand counts like what the driver says.
      case "change": mayHaveChanged = mayHaveChanged || event["HOTPLUG"] == "1" || event["SYNTH_UUID"] != nil
      default: break
      }
    }
    if isGone { return noteLoss(.operationNotSupportedByDevice) }
    if mayHaveChanged || heardAll == false { lookAtScreens() }
  }

  /// Asks the connectors anew, and tells the observer if something is different.
  func lookAtScreens() {
    guard cardToken != nil, loss == nil else { return }
    // What guests' memory could be shown in is found out frame by frame.
    let trial = ModeTrial(card, nil)
    for (index, lane) in lanes.enumerated() {
      let before = lane.output.pipe.connector
      let now = ask(before)
      if now.isConnected == before.isConnected, now.usableModes.map(\.mode) == before.usableModes.map(\.mode)
      {
        continue
      }
      lane.output.replace(now)
      let verdict = trial.run(lane.output)
      var output = Self.offer(lane, verdict)
      // Who is not master at the moment cannot ask; each frame asks for itself later.
      if now.isConnected, !card.isMaster { output.modes = now.usableModes.map(\.mode) }
      if let preferred = lane.preferred, !output.modes.isEmpty {
        do throws(SinkError) { output.modes = try modes(output.modes, first: preferred, lane) } catch {
          log.warning("\(output.name) cannot show \(preferred): \(error)")
        }
      }
      describe(output, verdict)
      if output != outputs[index] {
        outputs[index] = output
        tellOutputsSoon()
      }
      if now.isConnected {
        // The screen that is there now has not been told any mode.
        lane.output.wentDark()
        lane.needsRefresh = true
        start(lane)
      }
    }
  }

  /// What a connector says now. What says that it has no screen is believed; where there is one, its EDID is
  /// read anew, which takes some milliseconds.
  private func ask(_ before: KMSConnector) -> KMSConnector {
    do throws(Errno) {
      let now = try card.file.connector(before.id, probing: false)
      return now.isConnected ? try card.file.connector(before.id) : now
    } catch {
      noteLoss(error)
      // A connector of a dock vanishes with the dock.
      return before.withoutScreen
    }
  }
}
