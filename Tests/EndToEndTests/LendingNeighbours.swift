import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd.Lending {
  /// Runs Python as a user of the host.
  private func python(_ script: String, asUser user: Int, _ arguments: [String]) throws -> String {
    try run(
      "/usr/bin/setpriv",
      ["--reuid=\(user)", "--regid=\(user)", "--clear-groups", "/usr/bin/python3", "-c", script] + arguments,
      withErrors: true
    ).output
  }

  @Test("a user of one guest's audience learns nothing of another guest's buffers")
  func neighbours() throws {
    let both = ["--control-allow", "65533", "--control-allow", "65534"]
    let one = try LendingGuest(.imports, helperOptions: ["--audience", "some=uid:65533"] + both)
    let other = try LendingGuest(.imports, helperOptions: ["--audience", "some=uid:65534"] + both)
    let ids = try [one, other].map {
      try $0.lend("heap", Self.parts[2], seed: 2, as: "b", options: "--to some").id
    }
    // Of each helper: what it lists, what it says of each buffer and of one that is not there, and what it counts.
    let script = """
      import json, socket, sys
      for control in sys.argv[1:3]:
          with socket.socket(socket.AF_UNIX) as connection:
              connection.connect(control)
              def ask(interface, method, **parameters):
                  call = {"method": f"io.udmabridge.{interface}.{method}", "parameters": parameters}
                  connection.sendall(json.dumps(call).encode() + b"\\0")
                  answer = b""
                  while not answer.endswith(b"\\0"): answer += connection.recv(65536)
                  return answer[:-1]
              listed = [buffer["id"] for buffer in json.loads(ask("Buffers", "List"))["parameters"]["buffers"]]
              answers = [ask("Buffers", "Query", id=id) for id in [*sys.argv[3:5], "0" * 32]]
              counts = json.loads(ask("Display", "Statistics"))["parameters"]["device"]
              print([id in listed for id in sys.argv[3:5]], len(listed), [answer == answers[2] for answer in answers[:2]],
                    "lending" in counts)
      """
    let arguments = [one.control, other.control] + ids
    #expect(
      try python(script, asUser: 65533, arguments) == """
        [True, False] 1 [False, True] False
        [False, False] 0 [True, True] False

        """)
    #expect(
      try python(script, asUser: 65534, arguments) == """
        [False, False] 0 [True, True] False
        [False, True] 1 [True, False] False

        """)
    for lender in [one, other] { try lender.drop("b") }
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
  }

  @Test("a guest that floods its port is slowed down, and its neighbour lends on")
  func flood() throws {
    let hostile = try LendingGuest(
      .flat, helperOptions: ["--max-lent", "5", "--port-rate", "100", "--port-burst", "10"])
    let other = try LendingGuest(.flat)
    for number in 0..<5 { try hostile.lend("card", Self.parts[0], seed: 1, as: "b\(number)") }
    let refused = #expect(throws: TroubleInTest.self) {
      try hostile.lend("card", Self.parts[0], seed: 1, as: "more")
    }
    #expect(refused.map { "\($0)" }?.contains("5") == true, "\(refused.map { "\($0)" } ?? "nothing")")
    // As whoever may open its port: lines without end, of which some are commands.
    try hostile.killAgent()
    try hostile.guest.shell(
      #"(while :; do printf "{\"execute\":\"endLender\",\"arguments\":{\"lender\":1},\"id\":1}\n%04096d\n" 0; done >\#(LendingGuest.port) 2>/dev/null) >/dev/null 2>&1 &"#
    )
    func lending(_ lender: LendingGuest) throws -> String {
      try run(Self.tool, ["stats", "--control", lender.control], withErrors: true).output
    }
    try waitUntil("it is read more slowly") {
      try lending(hostile).contains(/lending\.port\.throttled +[1-9]/)
    }
    for round in 0..<10 {
      let (id, _) = try other.lend("card", Self.parts[2], seed: UInt32(round), as: "b")
      let importer = try other.startImporter(of: id)
      #expect(
        try importer.tell("read 0 16")
          == hexadecimal(Self.parts[2].bytes(seed: UInt32(round)).prefix(16)))
      #expect(try importer.tell("release") == "done")
      try other.drop("b")
    }
    #expect(try lending(other).contains(/lending\.port\.throttled +0/))
    #expect(try lending(hostile).contains(/lending\.port\.throttled +[1-9]/))
  }
}
