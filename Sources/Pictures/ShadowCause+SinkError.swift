package import Buffers
package import Scanout

extension ShadowCause {
  package init(_ error: SinkError) {
    let name: Name =
      switch error.refusal {
      case .importing: .importRefused
      case .bouncing: .bounced
      case .format: .formatRefused
      case .stride: .strideRefused
      case .mode: .modeRefused
      case .part: .partRefused
      case .offset: .offset
      case .other, .noOutput, .disconnected, .busy: .frameRefused
      }
    self.init(name, error.description)
  }
}
