internal import Linux
internal import Logging
internal import Scanout
internal import SystemPackage

// Screens that are plugged in and out. The kernel announces that something changed; then the sink asks each connector.
extension KMSSink {
  func watchHotplug() {
    do throws(Errno) {
      let socket = try DeviceEventSocket()
      hotplugToken = try loop.add(socket.fd) { [unowned self] _ in takeAnnouncements() }
      hotplug = consume socket
    } catch {
      log.info(
        "screens plugged in later go unnoticed, because the kernel's announcements cannot be received: \(error)"
      )
    }
  }

  private func takeAnnouncements() {
    var (isGone, mayHaveChanged) = (false, false)
    let heardAll = hotplug?.drain { event in
      guard event["SUBSYSTEM"] == "drm", let number = event.number, number == card.number else { return }
      switch event["ACTION"] {
      case "remove": isGone = true
      // An announcement that a person triggers by hand (SYNTH_UUID) counts like one of the driver.
      case "change": mayHaveChanged = mayHaveChanged || event["HOTPLUG"] == "1" || event["SYNTH_UUID"] != nil
      default: break
      }
    }
    if isGone { return noteLoss(.operationNotSupportedByDevice) }
    if mayHaveChanged || heardAll == false { lookAtScreens() }
  }

  /// Reads the state of all connectors, and tells the observer of changes.
  func lookAtScreens() {
    guard cardToken != nil, loss == nil else { return }
    // No udmabuf is tried here, because each frame is tested before it is shown from guest memory.
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
      // A process that is not master at the moment cannot test modes; each frame is tested later.
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
        // This screen has not been set to any mode yet.
        lane.output.wentDark()
        lane.needsRefresh = true
        start(lane)
      }
    }
  }

  /// Reads the state of one connector. If the kernel knows of a screen, this reads the EDID anew, which takes some
  /// milliseconds.
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
