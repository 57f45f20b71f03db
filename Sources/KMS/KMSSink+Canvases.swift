package import Scanout
internal import SystemPackage

// Canvases: the card's own memory, for copies of pictures that the card cannot show from the guest's memory.
extension KMSSink {
  /// At most this many sizes are tried for one canvas.
  private static let canvasTries = 4

  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    guard let lane = lane(scanout) else { throw noOutput(scanout) }
    let modes = outputs[Int(scanout.rawValue)].modes
    guard lane.output.pipe.connector.isConnected, !modes.isEmpty else { throw noScreen(lane) }
    let picture = PixelSize(width: width, height: height)
    var failure = noMode(picture, lane.output)
    let others = Setting.canvases(for: picture, in: modes).filter { $0 != picture }.prefix(Self.canvasTries)
    for size in (lane.output.mayShow(picture) ? [picture] : []) + others {
      do throws(SinkError) {
        let (buffer, layout, _) = try tryCanvas(size, format, lane)
        return Canvas(memory: buffer, layout: layout, area: Setting.area(of: picture, in: size))
      } catch {
        failure = error
        if !error.refusal.isMendedByCopying || error.refusal == .format { break }
      }
    }
    throw failure
  }

  /// Allocates memory of the card's for this size, and tests whether the output can show it.
  func tryCanvas(
    _ size: PixelSize, _ format: FourCC, _ lane: KMSLane
  ) throws(SinkError) -> (DumbBuffer, FrameLayout, Setting) {
    let plane = lane.output.pipe.plane
    let format = try card.format(wanted: format, for: plane)
    let buffer = try card.allocate(size)
    let layout = FrameLayout(width: size.width, height: size.height, format: format, stride: buffer.stride)
    let framebuffer = try card.makeFramebuffer(.shadow(buffer), layout, for: plane)
    defer { card.removeFramebuffer(framebuffer) }
    do throws(Errno) { return (buffer, layout, try lane.output.test(framebuffer, layout.bounds)) } catch {
      noteLoss(error)
      throw refusal("the size \(size) on \(lane.output.pipe.connector.name)", .mode, error)
    }
  }
}
