/// `org.varlink.service`, which every service has: what it is, and what its interfaces look like.
final class ServiceInterface: VarlinkInterface {
  let name = "org.varlink.service"
  private let info: VarlinkInfo
  private let others: [any VarlinkInterface]

  init(_ info: VarlinkInfo, _ others: [any VarlinkInterface]) { (self.info, self.others) = (info, others) }

  private struct Info: JSONWritable {
    let info: VarlinkInfo
    let interfaces: [String]

    func write(to json: inout JSONWriter) {
      json.object { json in
        json.field("vendor", info.vendor)
        json.field("product", info.product)
        json.field("version", info.version)
        json.field("url", info.url)
        json.field("interfaces", interfaces)
      }
    }
  }

  private struct Description: JSONWritable {
    let description: String
    func write(to json: inout JSONWriter) { json.object { json in json.field("description", description) } }
  }

  private struct Which: VarlinkParameters {
    static let names = ["interface"]
    let interface: String
  }

  func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError) {
    switch method {
    case "GetInfo":
      _ = try call.parameters(EmptyObject.self)
      connection.reply(Info(info: info, interfaces: [name] + others.map(\.name)))
    case "GetInterfaceDescription":
      let wanted = try call.parameters(Which.self).interface
      guard wanted != name else { return connection.reply(Description(description: description)) }
      guard let interface = others.first(where: { $0.name == wanted }) else {
        throw .interfaceNotFound(wanted)
      }
      connection.reply(Description(description: interface.description))
    default: throw .methodNotFound(call.method)
    }
  }

  let description = """
    # What every varlink service says of itself.
    interface org.varlink.service

    # Who made the service, and which interfaces it has.
    method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

    # The definition of one of these interfaces.
    method GetInterfaceDescription(interface: string) -> (description: string)

    # There is no such interface.
    error InterfaceNotFound (interface: string)

    # The interface has no such method.
    error MethodNotFound (method: string)

    # The method is defined and does not work here.
    error MethodNotImplemented (method: string)

    # A parameter is missing, unknown, or of the wrong type.
    error InvalidParameter (parameter: string)

    # The method has several replies: call it with "more".
    error ExpectedMore ()

    """
}
