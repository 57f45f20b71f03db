internal import Linux
package import SystemPackage

/// Where things of a domain are.
package struct DomainPlaces: Equatable, Sendable {
  /// The domain's name as that of a file: bytes that stand for something else are written `%XX`.
  package let fileName: String
  package let domain: String
  private let root: FilePath

  /// Of the domain with this name, whatever it is made of.
  /// - Parameter root: the directory in which the host's files are.
  /// - Throws: `nameTooLong`. A shorter name in its place could be another domain's too.
  package init(_ domain: String, root: FilePath = "/") throws(DomainError) {
    var encoded = PercentText.encode(domain)
    if encoded.hasPrefix(".") { encoded = "%2E" + encoded.dropFirst() }
    guard encoded.utf8.count <= Self.longest else { throw .nameTooLong(encoded) }
    (self.domain, self.root, fileName) = (domain, root, encoded)
  }

  /// Those of the domains that have a directory in `runtime`, in the order of their names: the domains that run.
  /// - Parameter root: the directory in which the host's files are.
  package static func running(root: FilePath = "/") -> [DomainPlaces] {
    directoryEntries(root.appending(runtimeDirectory.components)).compactMap { entry in
      // The links of domains' strings have characters that are in no domain's file name.
      guard let domain = PercentText.decode(entry[...]), let places = try? DomainPlaces(domain, root: root),
        places.fileName == entry
      else { return nil }
      return places
    }.sorted { $0.domain < $1.domain }
  }

  /// In bytes. The path of a socket in the domain's directory, which may have 107, has room for its own name then.
  static let longest = 80

  /// A host's directory for what lives while domains run.
  package static let runtimeDirectory: FilePath = "/run/udmabridge"
  /// The same directory, of the host whose files are in `root`.
  package var runtime: FilePath { root.appending(Self.runtimeDirectory.components) }
  /// What administrators write.
  package var configuration: FilePath { root.appending("etc/udmabridge") }

  /// The domain's own directory while it runs; its helper may write there.
  package var directory: FilePath { runtime.appending(fileName) }
  /// What a string leads to, which libvirt takes for the path of a device.
  package func device(_ reference: String) -> FilePath {
    root.appending(reference.drop { $0 == "/" }.description)
  }
  /// The helper's control socket, where its options do not name another.
  package var control: FilePath { directory.appending("control") }
  /// The socket to which QEMU connects the port on which the guest lends, and that of the device without a screen for
  /// buffers of other drivers, and for memory of the host: `port=port`, `lend-socket-path=lend` and `share-socket-path=share` among
  /// the options.
  package var port: FilePath { directory.appending(Self.portName) }
  package var lending: FilePath { directory.appending(Self.lendingName) }
  package var sharing: FilePath { directory.appending(Self.sharingName) }
  package static let portName = "port"
  package static let lendingName = "lend"
  package static let sharingName = "share"

  /// An option as an argument of `vhost-user-udmabuf`: a socket without a slash in its name is in the domain's directory.
  package func argument(_ option: DomainOption) -> String {
    let isSocket =
      ["port", "lend-socket-path", "share-socket-path"].contains(option.name) && !option.value.contains("/")
    return "--\(option.name)=" + (isSocket ? "\(directory.appending(option.value))" : option.value)
  }
  /// The control socket that the options of the domain name, as far as they can be read: those of its string, which a
  /// link in `runtime` is called while it runs, then those of its file.
  package var chosenControl: FilePath? {
    let strings = directoryEntries(runtime).compactMap { try? DomainReference("/run/udmabridge/\($0)") }
    let reference = strings.first { $0.domain == domain } ?? DomainReference(domain: domain)
    let all = (try? reference.allOptions(file: options)) ?? reference.options
    // Of an option that is there twice, the last one counts.
    return all.last { $0.name == "control" }.map { FilePath($0.value) }
  }
  /// The one of `chosenControl` and `control` that is there: an option that was changed since the domain started is not its
  /// helper's yet. Nil where neither is.
  package var existingControl: FilePath? {
    [chosenControl, control].compactMap(\.self).first { (try? FileAccess(of: $0)) != nil }
  }
  /// Options for the helper, a line `OPTION = VALUE` for each.
  package var options: FilePath { configuration.appending(fileName + ".conf") }
  /// Where `udmabridge present` is to run beside the domain: its options, as a systemd unit reads them.
  package var present: FilePath { configuration.appending(fileName + ".present") }
}

extension DomainReference {
  /// The options of a domain's file and of its string, in this order. One that is in the string replaces those of the
  /// same name in the file.
  /// - Parameter path: of the file, which need not be there.
  package func allOptions(file path: FilePath? = nil) throws(DomainError) -> [DomainOption] {
    let file = if let path { path } else { try DomainPlaces(domain).options }
    let text: String
    do throws(Errno) { text = try readText(file) } catch {
      if error == .noSuchFileOrDirectory { return options }
      throw DomainError.file("\(file)", "\(error)")
    }
    let chosen = Set(options.map(\.name))
    return try DomainOption.read(text, of: "\(file)").filter { !chosen.contains($0.name) } + options
  }
}
