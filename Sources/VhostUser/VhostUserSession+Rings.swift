internal import Guest
internal import Linux
internal import Logging
internal import SystemPackage

// The rings: each starts when its setup is complete, moves with the guest's memory, and stops with GET_VRING_BASE.
extension VhostUserSession {
  /// - Parameter isFinal: whether the table is complete, so that it will not get a missing ring later.
  func move(_ vring: Vring, isFinal: Bool) {
    do throws(VhostUserError) {
      try vring.move(table.memory, eventIndex: hasEventIndex)
    } catch {
      if isFinal { refuse(vring, error) }
    }
  }

  private func refuse(_ vring: Vring, _ error: VhostUserError) {
    vring.reportError()
    device.unusable(vring.index, error)
  }

  /// - Returns: whether the driver is a new one; nil if the ring does not start.
  private func start(_ vring: Vring) -> Bool? {
    do throws(VhostUserError) {
      return try vring.start(
        table.memory, eventIndex: hasEventIndex, indirect: features & Features.indirectDescriptors != 0)
    } catch {
      // The next message must not try again.
      vring.addresses = nil
      refuse(vring, error)
      return nil
    }
  }

  func vring(_ request: Request, _ queue: UInt32) throws(VhostUserError) -> Vring {
    guard queue < vrings.count else {
      throw .value(request, field: "the queue", value: UInt64(queue), wanted: "less than \(vrings.count)")
    }
    return vrings[Int(queue)]
  }

  /// Changes the setup of a ring that does not run. Refusals come before the change, and leave the ring as it is.
  func configure(
    _ request: Request, _ queue: UInt32, _ change: (Vring) -> Void
  ) throws(VhostUserError) {
    let vring = try vring(request, queue)
    try drop([vring], for: request)
    change(vring)
    try update(vring)
  }

  /// Ends the runs of rings that will be set up anew. Some front ends report a driver's reset only by disabling its rings.
  func drop(_ vrings: [Vring], for request: Request) throws(VhostUserError) {
    let started = vrings.filter(\.isStarted)
    if let vring = started.first(where: isEnabled) { throw .ringRunning(request, queue: vring.index) }
    for vring in started {
      vring.stop()
      device.dropped(vring.index)
    }
  }

  /// Without the protocol features a ring is enabled from the start.
  private func isEnabled(_ vring: Vring) -> Bool {
    vring.isEnabled || features & Features.protocolFeatures == 0
  }

  /// Starts a ring whose setup is complete, and watches its kicks as long as it may work.
  ///
  /// The specification starts a ring with its first kick. The front end may have taken that kick before it handed the
  /// descriptor over. The descriptor itself therefore starts the ring, and its chains are looked for.
  func update(_ vring: Vring) throws(VhostUserError) {
    let isEnabled = isEnabled(vring)
    // Before it accepted version 1, there is no driver.
    if !vring.isStarted, isEnabled, features & Features.version1 != 0, let fresh = start(vring) {
      logger.debug("ring starts", metadata: ["queue": "\(vring.index)", "index": "\(vring.base)"])
      device.started(vring, index: vring.index, fresh: fresh)
    }
    guard vring.isStarted, isEnabled, !vring.isAdrift else {
      vring.kick?.pause()
      return
    }
    guard let kick = vring.kick else { return }
    let index = vring.index
    do {
      let isNew = try kick.watch { [weak self] works in self?.kicked(index, works) }
      if isNew { resumed.append(index) }
    } catch {
      throw .descriptor(.setVringKick, error)
    }
  }

  private func kicked(_ index: Int, _ works: Bool) {
    if works { device.kicked(index) } else { end(.kickDescriptor(queue: index)) }
  }

  func lookAtResumedRings() {
    for index in resumed where vrings[index].isStarted { device.kicked(index) }
    resumed.removeAll(keepingCapacity: true)
  }

  /// Stops a ring for `GET_VRING_BASE`, and answers when the device has completed what it took.
  func stop(_ vring: Vring) throws(VhostUserError) -> Reply? {
    guard vring.isStarted else {
      vring.kick = nil
      return base(of: vring)
    }
    vring.kick?.pause()
    stopping = vring.index
    var isInCall = true
    device.stopping(vring.index) { [weak self] in
      guard let self, stopping == vring.index, token != nil else { return }
      stopping = nil
      vring.stop()
      vring.kick = nil
      if !isInCall { resumeReading(after: vring) }
    }
    isInCall = false
    if stopping == nil { return base(of: vring) }
    try read(nothing: true)
    return nil
  }

  private func resumeReading(after vring: Vring) {
    do throws(VhostUserError) {
      try read(nothing: false)
      try stream?.send(base(of: vring), to: .getVringBase)
    } catch {
      end(error)
    }
  }

  private func read(nothing: Bool) throws(VhostUserError) {
    do throws(Errno) { try pauseReading(nothing) } catch { throw .socket(error) }
  }

  private func base(of vring: Vring) -> Reply {
    .vringState(queue: UInt32(vring.index), number: UInt32(vring.base))
  }
}
