import DomainOptions
import Foundation
import Libvirt
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import udmabridge

/// What libvirt hands to the helper, and where things of a domain are.
@Suite struct ReferenceTests {
  @Test(
    "a reference is read as it was written, and fits into XML and shells",
    arguments: [
      "web", "a b", "ä/%&<>'\"", ";=?#", String(repeating: "x", count: 80),
    ])
  func round(_ name: String) throws {
    let options = [
      try DomainOption("kms", "/dev/dri/card0:HDMI-A-1,DP-1"), try DomainOption("kms", "fd:3"),
      try DomainOption("stats", "/tmp/a;b?c=d %"),
    ]
    for reference in [DomainReference(domain: name), DomainReference(domain: name, options: options)] {
      let text = "\(reference)"
      #expect(try DomainReference(text) == reference)
      // libvirt wants the path of a file, whose name it is; XML and shells leave the rest alone.
      #expect(
        text.hasPrefix("/run/udmabridge/") && text.filter { $0 == "/" }.count == 3
          && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f })
      #expect(!text.contains { "<>&'\" ".contains($0) })
    }
  }

  @Test("a reference that people write is read")
  func byHand() throws {
    let reference = try DomainReference("/run/udmabridge/web?kms=%2fdev%2Fdri%2Fcard0:DP-1;cursor=off;")
    #expect(reference.domain == "web")
    let places = try DomainPlaces("web")
    #expect(reference.options.map(places.argument) == ["--kms=/dev/dri/card0:DP-1", "--cursor=off"])
    // Sockets of lending, in the domain's directory or elsewhere.
    let lending = try DomainReference(
      "/run/udmabridge/web?port=port;lend-socket-path=%2Frun%2Flend;audience=a%3Duid:7")
    #expect(
      lending.options.map(places.argument) == [
        "--port=/run/udmabridge/web/port", "--lend-socket-path=/run/lend", "--audience=a=uid:7",
      ])
  }

  @Test(
    "a malformed reference is refused",
    arguments: [
      "", "/dev/dri/renderD128", "/run/udmabridge/", "/run/udmabridge/?kms=auto", "/run/udmabridge/a%2?",
      "/run/udmabridge/%ff?", "/run/udmabridge/a", "/run/udmabridge/a?kms=/dev/dri/card0",
      "/run/udmabridge/../a?", "/run/udmabridge/a/?",
      "/run/udmabridge/a?kms", "/run/udmabridge/a?kms=", "/run/udmabridge/a?kms=%0a",
      "/run/udmabridge/a?fd=3",
      "/run/udmabridge/a?socket-path=/x", "/run/udmabridge/a?--kms=auto",
      "/run/udmabridge/" + String(repeating: "a", count: 255) + "?",
    ])
  func refused(_ text: String) {
    #expect(throws: DomainError.self) { try DomainReference(text) }
  }

  @Test("the domains that run are those with a directory, whose names are read back; links are none")
  func running() throws {
    let root = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: root.string) }
    #expect(DomainPlaces.running(root: root).isEmpty)
    let names = ["web", "a b", ".x", "ä/%"]
    for name in names {
      let places = try DomainPlaces(name, root: root)
      try FileManager.default.createDirectory(
        atPath: places.directory.string, withIntermediateDirectories: true)
      if name != "web" { try writeText(places.control, "") }
    }
    let runtime = try DomainPlaces("web", root: root).runtime
    // As the hook makes them, and what nobody makes.
    for link in ["web?", "web?control=%2Frun%2Fother", "other?kms=auto", "a%20b%", "%ff", "x y"] {
      try makeLink(runtime.appending(link), to: "/dev/null")
    }
    let found = DomainPlaces.running(root: root)
    #expect(found.map(\.domain) == names.sorted())
    for places in found where places.domain != "web" { #expect(places.existingControl == places.control) }
    #expect(found.first { $0.domain == "web" }?.existingControl == nil)
  }

  @Test("a reference too long for a file's name is refused, and the error names the options' file")
  func tooLong() throws {
    let domain = try DomainXML(Definition().text)
    let options = try (0..<9).map { _ in try DomainOption("stats", "/" + String(repeating: "x", count: 30)) }
    #expect {
      try domain.enable(options: options)
    } throws: { "\($0)".contains("has 379 bytes, and may have 271") && "\($0)".contains(".conf") }
  }

  @Test("a domain's name that is too long is refused with its own remedy")
  func nameTooLong() throws {
    // Two bytes each, which are written %XX.
    let longest = String(repeating: "ж", count: 13) + "xx"
    #expect(try DomainReference("\(DomainReference(domain: longest))").domain == longest)
    let domain = try DomainXML(Definition(name: longest + "x").text)
    #expect(domain.problems.contains { $0.remedy.contains("virsh domrename") })
    #expect {
      try domain.enable()
    } throws: {
      let text = "\($0)"
      return text.contains("name takes 81 bytes") && text.contains("may take 80")
        && text.contains("domrename") && !text.contains(".conf")
    }
    // What names such a domain, but is another one's, is written anew.
    let other = "/run/udmabridge/\(String(repeating: "n", count: 81))?"
    let copy = Definition(backing: Definition.shared, devices: Definition.own(other))
    let copied = try DomainXML(copy.text)
    #expect(copied.problems.map(\.isMendable) == [true])
    try copied.enable()
    #expect(copied.problems == [])
  }

  @Test(
    "each domain's name becomes one file name",
    arguments: [
      ("web", "web"), ("a b", "a%20b"), ("..", "%2E."), ("a/../b", "a%2F..%2Fb"), (".hidden", "%2Ehidden"),
      ("a~b", "a%7Eb"), ("-x", "-x"),
    ])
  func places(_ name: String, _ file: String) throws {
    #expect(try DomainPlaces(name).fileName == file)
  }

  @Test("a name that is too long for a socket's path has no place and no reference")
  func long() throws {
    for last in ["a", "\u{fc}", "."] {
      let count = 80 - (last == "\u{fc}" ? 6 : 1)
      let longest = try DomainPlaces(String(repeating: "n", count: count) + last)
      // The limit of a socket's path, with the NUL at its end (sun_path, unix(7)).
      for socket in [longest.control, longest.directory.appending("recover")] {
        #expect(socket.string.utf8.count < 108)
      }
      let name = String(repeating: "n", count: count + 1) + last
      #expect(throws: DomainError.self) { try DomainPlaces(name) }
      #expect(throws: DomainError.self) { try DomainReference("\(DomainReference(domain: name))") }
    }
    // With its dot, which is written %2E, it has one byte too many.
    let hidden = "." + String(repeating: "n", count: 78)
    #expect(throws: DomainError.nameTooLong("%2E" + hidden.dropFirst())) { try DomainPlaces(hidden) }
  }

  @Test("a domain's control socket is the one of its string, or else of its file")
  func control() throws {
    let root = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: root.string) }
    let places = try DomainPlaces("web", root: root)
    #expect(places.chosenControl == nil)
    for directory in [places.runtime, places.configuration] {
      try FileManager.default.createDirectory(atPath: directory.string, withIntermediateDirectories: true)
    }
    try "control = /first\ncontrol = /elsewhere\n".write(
      toFile: places.options.string, atomically: false, encoding: .utf8)
    #expect(places.chosenControl == "/elsewhere")
    #expect(try DomainPlaces("other", root: root).chosenControl == nil)
    for name in ["other?control=%2Fother", "web?kms=auto;control=%2Fchosen", "web"] {
      try makeLink(places.runtime.appending(name), to: "/dev/null")
    }
    #expect(places.chosenControl == "/chosen")
    #expect(try DomainPlaces("other", root: root).chosenControl == "/other")
    // A file that the helper would refuse.
    try "colour = red\n".write(toFile: places.options.string, atomically: false, encoding: .utf8)
    #expect(places.chosenControl == "/chosen")
  }

  @Test("a domain's file adds options before those of its string")
  func file() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let path = directory.appending("web.conf")
    let reference = try DomainReference("/run/udmabridge/web?kms=auto")
    let places = try DomainPlaces("web")
    #expect(
      try reference.allOptions(file: path).map(places.argument) == ["--kms=auto"], "there is no such file")
    try "# a comment\n\n kms = /dev/dri/card1 \nresolution=800x600\r\nresolution =1024x768".write(
      toFile: path.string, atomically: false, encoding: .utf8)
    #expect(
      try reference.allOptions(file: path).map(places.argument) == [
        "--resolution=800x600", "--resolution=1024x768", "--kms=auto",
      ])
    try "\n\nsocket-path = /x\n".write(toFile: path.string, atomically: false, encoding: .utf8)
    #expect(
      throws: DomainError.line(
        file: "\(path)", number: 3, "\(DomainError.unknownOption("socket-path"))")
    ) { try reference.allOptions(file: path) }
  }
}
