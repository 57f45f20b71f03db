import ArgumentParser
import DomainOptions
import Glibc
import Linux
import Programs
import SystemPackage

/// What libvirt passes to a video's back end, beside `--fd`.
struct LibvirtOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "What libvirt passes of a domain's <acceleration rendernode='...'/>. /run/udmabridge/NAME?OPTION=VALUE;... says which domain this is, and adds these options and those of /etc/udmabridge/NAME.conf to the command line; anything else has no meaning here.",
      valueName: "string"))
  var renderNode: String?

  @Flag(help: "What libvirt passes for a domain with accel3d; there is no 3D here, and it has no meaning.")
  var virgl = false

  /// The domain; nil if none is said.
  func reference() throws -> DomainReference? {
    guard let renderNode, DomainReference.isMeant(by: renderNode) else { return nil }
    do throws(DomainError) { return try DomainReference(renderNode) } catch {
      throw Trouble("--render-node: \(error)")
    }
  }
}

extension Options {
  /// These options and the domain's own.
  /// - Returns: also what is to be said once there is a log.
  func withDomain() throws -> (options: Options, domain: String?, note: String?) {
    guard let reference = try libvirt.reference() else {
      let note = libvirt.renderNode.map {
        "the render node \($0) is not used; udmabridge libvirt enable writes one that names the domain"
      }
      return (self, nil, note)
    }
    var words: [String]
    let places: DomainPlaces
    do throws(DomainError) {
      places = try DomainPlaces(reference.domain)
      words = try reference.allOptions().map(places.argument)
    } catch { throw Trouble("\(error)") }
    func remove(_ prefixes: String...) {
      words.removeAll { word in prefixes.contains { word.hasPrefix($0) } }
    }
    // libvirt gives a descriptor. A card that is plugged in later lends all by itself.
    if socketPath != nil { remove("--lend-socket-path=", "--share-socket-path=") }
    var note: String?
    if control.control == nil, !words.contains(where: { $0.hasPrefix("--control=") }) {
      let me = Account(name: "me", user: geteuid(), group: getegid())
      let access = try? FileAccess(of: places.directory)
      if access?.allowsWriting(me) == true {
        words.append("--control=\(places.control)")
      } else {
        remove("--control-", "--port", "--lend-socket-path=", "--share-socket-path=", "--audience=")
        note =
          (access == nil
            ? "there is no \(places.directory), which the hook makes"
            : "user \(geteuid()) may not write in \(places.directory), which the hook should have given to it")
          + ": the frames are not offered to other processes, and the guest lends nothing else"
      }
    }
    do {
      // Of an option that is there twice, the last one counts.
      return (try Options.parse(words + CommandLine.arguments.dropFirst()), reference.domain, note)
    } catch { throw Trouble("domain \(reference.domain): \(Options.message(for: error))") }
  }
}
