import ArgumentParser
import DomainOptions
import Glibc
import Linux
import Programs
import SystemPackage

/// The options that libvirt passes to a video's back end, in addition to `--fd`.
struct LibvirtOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "libvirt passes a domain's <acceleration rendernode='...'/> by this option. /run/udmabridge/NAME?OPTION=VALUE;... names the domain, and adds these options and those of /etc/udmabridge/NAME.conf to the command line. Any other value has no effect.",
      valueName: "string"))
  var renderNode: String?

  @Flag(help: "libvirt passes this for a domain with accel3d. It has no effect, because there is no 3D.")
  var virgl = false

  /// The domain; nil if the option names none.
  func reference() throws -> DomainReference? {
    guard let renderNode, DomainReference.isMeant(by: renderNode) else { return nil }
    do throws(DomainError) { return try DomainReference(renderNode) } catch {
      throw Trouble("--render-node: \(error)")
    }
  }
}

extension Options {
  /// These options and the domain's own.
  /// - Returns: the options, and warnings for the log, which begins later.
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
    // libvirt passes a descriptor. Without one, this helper serves a card that recovery plugs in, which lends by itself.
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
          + ": the helper offers the frames to no other process, and the guest can lend no other buffers"
      }
    }
    do {
      // If an option comes twice, the last one counts.
      return (try Options.parse(words + CommandLine.arguments.dropFirst()), reference.domain, note)
    } catch { throw Trouble("domain \(reference.domain): \(Options.message(for: error))") }
  }
}
