import Fixtures
import Guest
import Linux
import Testing
import VhostUser

@Suite struct MessageFormTests {
  @Test("the tables of these tests have every request") func coversEveryRequest() {
    #expect(Form.all.map(\.request) == Request.allCases)
  }

  /// Otherwise the tables below prove nothing.
  @Test("a message in the right form is taken", arguments: Form.all) func isTakenAsItShouldBe(_ form: Form)
    throws
  {
    let victim = try Victim()
    #expect(try victim.end(after: form.request, form.payload, descriptors: form.descriptors) == nil)
    #expect(victim.setup.link.end == nil)
  }

  @Test("a payload of another size is refused", arguments: Form.all) func refusesOtherSizes(_ form: Form)
    throws
  {
    let size = form.payload.count
    for wrong in Array(0..<size) + [size + 1, size + 4, size + 8, 4096] {
      if form.otherSize == wrong { continue }
      let victim = try Victim()
      let payload = Array(form.payload.prefix(wrong)) + [UInt8](repeating: 0, count: max(0, wrong - size))
      let error = try victim.end(after: form.request, payload, descriptors: form.descriptors)
      guard case .payloadSize(form.request, size: wrong, let expected) = error else {
        Issue.record("\(wrong) bytes: \(String(describing: error))")
        continue
      }
      // What can be longer or shorter has a fixed part that is asked for first.
      #expect(expected == size || wrong < expected)
      #expect(victim.setup.link.endCount == 1)
    }
  }

  @Test("another number of descriptors is refused", arguments: Form.all)
  func refusesOtherNumbersOfDescriptors(_ form: Form) throws {
    for wrong in 0...8 where wrong != form.descriptors {
      if form.toleratesDescriptor && wrong == 1 { continue }
      let victim = try Victim()
      let error = try victim.end(after: form.request, form.payload, descriptors: wrong)
      #expect(error == .descriptorCount(form.request, count: wrong, expected: form.descriptors))
    }
    let victim = try Victim()
    #expect(
      try victim.end(after: form.request, form.payload, descriptors: 9) == .descriptorsLost(form.request))
  }

  /// Descriptors that a message may bring, and that have no use.
  @Test("a descriptor without a use is closed", arguments: Form.all.filter(\.toleratesDescriptor))
  func closesAnIdleDescriptor(_ form: Form) throws {
    let victim = try Victim()
    try UnixSocket.pair { mine, theirs in
      try victim.setup.frontEnd.send(
        form.request.rawValue, form.payload, descriptors: [theirs.fd.withRaw { $0 }])
      discard(theirs)
      try victim.setup.link.settle()
      #expect(victim.setup.link.end == nil)
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      #expect(
        try mine.receive(into: &bytes, upTo: 1, descriptors: &descriptors) == 0, "the other end is closed")
    }
  }

  private func discard(_ socket: consuming UnixSocket) {}

  @Test("REM_MEM_REG may bring a descriptor")
  func closesADescriptorThatRemoveMemoryRegionBrings() throws {
    let victim = try Victim()
    let form = Form.all.first { $0.request == .removeMemoryRegion }!
    #expect(try victim.end(after: form.request, form.payload, descriptors: 1) == nil)
    #expect(victim.setup.memory.regions.count == 1)
  }

  @Test("a connection that ends inside a message is an error", arguments: Form.all) func noticesACutAnywhere(
    _ form: Form
  ) throws {
    let message = form.request.rawValue.bytes + numbers(1, UInt32(form.payload.count)) + form.payload
    for length in 1..<message.count {
      let victim = try Victim()
      try victim.setup.frontEnd.sendBytes(
        Array(message.prefix(length)), descriptors: victim.descriptors(for: form.request, form.descriptors))
      try victim.setup.link.settle()
      #expect(victim.setup.link.end == nil, "the rest may come")
      victim.setup.link.hangUp()
      try victim.setup.link.settle()
      let place = length < 12 ? "a header" : "\(form.request)"
      #expect(victim.setup.error == .closed(while: "in the middle of \(place)"))
    }
  }

  @Test(
    "descriptors may come with any byte of a message",
    arguments: Form.all.filter { $0.descriptors > 0 })
  func takesDescriptorsWithAnyByte(_ form: Form) throws {
    let message = form.request.rawValue.bytes + numbers(1, UInt32(form.payload.count)) + form.payload
    for place in 0..<message.count {
      let victim = try Victim()
      let descriptors = victim.descriptors(for: form.request, form.descriptors)
      for (index, byte) in message.enumerated() {
        try victim.setup.frontEnd.sendBytes([byte], descriptors: index == place ? descriptors : [])
      }
      #expect(try victim.setup.frontEnd.askWord(FrontEnd.getQueueNum) == 2)
    }
  }

  @Test("a payload beyond the limit is refused", arguments: [4097, 65536, UInt32.max])
  func refusesLongPayloads(_ size: UInt32) throws {
    for request in Request.allCases {
      let victim = try Victim()
      try victim.setup.frontEnd.sendBytes(request.rawValue.bytes + numbers(1, size))
      try victim.setup.link.settle()
      #expect(victim.setup.error == .payloadTooLong(request, size: size, limit: 4096))
    }
  }

  @Test("another version of the protocol is refused", arguments: [0, 2, 3, 0xffff_fffe] as [UInt32])
  func refusesOtherVersions(_ flags: UInt32) throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(FrontEnd.getFeatures, flags: flags)
    try victim.setup.link.settle()
    #expect(victim.setup.error == .version(flags: flags))
  }

  @Test("a reply in place of a request is refused") func refusesAReply() throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(FrontEnd.getFeatures, flags: 5)
    try victim.setup.link.settle()
    #expect(victim.setup.error == .replyInsteadOfRequest(code: 1))
  }

  @Test(
    "an unknown request is refused",
    arguments: [
      0, 19, 20, 22, 23, 26, 27, 28, 29, 30, 31, 32, 35, 39, 40, 42, 43, 45, 1000, .max,
    ] as [UInt32])
  func refusesOtherRequests(_ code: UInt32) throws {
    let victim = try Victim()
    try victim.setup.frontEnd.send(code, [1, 2, 3])
    try victim.setup.link.settle()
    #expect(victim.setup.error == .unknownRequest(code))
  }

  @Test("a request whose feature was not negotiated is refused") func refusesWhatWasNotNegotiated() throws {
    let needs: [(Request, String)] = [
      (.getQueueCount, "MQ"), (.setBackendRequestSocket, "BACKEND_REQ"), (.getConfig, "CONFIG"),
      (.setConfig, "CONFIG"), (.resetDevice, "RESET_DEVICE"), (.getMaxMemorySlots, "CONFIGURE_MEM_SLOTS"),
      (.addMemoryRegion, "CONFIGURE_MEM_SLOTS"), (.removeMemoryRegion, "CONFIGURE_MEM_SLOTS"),
      (.getSharedObject, "SHARED_OBJECT"), (.getSharedMemoryConfig, "SHMEM_MAP"),
    ]
    for (request, feature) in needs {
      let victim = try Victim()
      #expect(try victim.end(after: .setProtocolFeatures, UInt64(0).bytes) == nil)
      let form = Form.all.first { $0.request == request }!
      let error = try victim.end(after: request, form.payload, descriptors: form.descriptors)
      #expect(error == .notNegotiated(request, feature: feature))
    }
  }
}
