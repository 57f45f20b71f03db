/// A metric of Prometheus: the name and the meaning of its numbers.
package struct MetricFamily: Sendable {
  /// The types of Prometheus that are used here.
  package enum Kind: String, Sendable { case counter, gauge }

  /// By Prometheus' conventions: the name of a counter ends in `_total`, and a name contains its unit.
  package let name: String
  package let kind: Kind
  package let help: String
  /// The path in a helper's answer, such as `device.flushes`.
  package let field: String
  /// The label whose values are the names in that field; nil for a field with one number.
  package let label: String?

  private init(
    _ kind: Kind, _ name: String, _ field: String, by label: String? = nil, _ help: String
  ) {
    (self.name, self.kind, self.help, self.field, self.label) = (
      "udmabridge_\(name)", kind, help, field, label
    )
  }

  // MARK: Of the host

  static let domains = MetricFamily(
    .gauge, "domains", "", "Domains whose helpers were asked for these metrics.")
  static let up = MetricFamily(.gauge, "up", "", "Whether the domain's helper answered: 1, or 0.")
  static let duration = MetricFamily(
    .gauge, "scrape_duration_seconds", "",
    "The time until the domain's helper answered, or until the wait for it ended.")

  // MARK: Of a helper

  /// One for each field of a helper's statistics.
  package static let ofHelpers: [MetricFamily] = device + lending + control

  private static let device: [MetricFamily] = [
    .init(
      .counter, "flushes_total", "device.flushes",
      "Flushes of the guest (RESOURCE_FLUSH), counted once for each scanout that shows the resource."),
    .init(.counter, "frames_shown_total", "device.framesShown", "Flushes whose frame was on the screen."),
    .init(
      .counter, "frames_coalesced_total", "device.framesCoalesced",
      "Flushes that another one followed before the screen could show them."),
    .init(.counter, "frames_failed_total", "device.framesFailed", "Flushes that the screen refused."),
    .init(
      .counter, "buffers_lent_total", "device.buffersLent", "Buffers whose own dma-buf was on the screen."),
    .init(
      .counter, "entries_reported_total", "device.entriesReported",
      "Entries in the guest's page lists of the buffers that were lent."),
    .init(
      .counter, "items_joined_total", "device.itemsJoined",
      "Items of the dma-bufs that were lent, after neighbours among the entries were joined."),
    .init(.counter, "pages_lent_total", "device.pagesLent", "Pages of the guest that were lent."),
    .init(.counter, "lent_bytes_total", "device.bytesLent", "Bytes of the guest that were lent."),
    .init(.counter, "copied_bytes_total", "device.bytesCopied", "Bytes of pixels that the helper copied."),
    .init(.gauge, "dma_bufs", "device.liveDMABufs", "Dma-bufs of the guest's pages that exist now."),
    .init(
      .gauge, "pinned_bytes", "device.pinnedBytes", "Bytes of the guest's memory that dma-bufs pin now."),
    .init(
      .counter, "shadows_total", "device.shadows", by: "cause",
      "Pictures that were shown by copying, by the cause."),
    .init(.gauge, "shadow_bytes", "device.shadowBytes", "Bytes of memory that copies of pictures take now."),
    .init(.gauge, "resources", "device.liveResources", "Resources of the guest that exist now."),
    .init(
      .counter, "buffers_released_late_total", "device.releasedLate",
      "Buffers that were released too late when the guest wanted them back."),
    .init(
      .counter, "buffers_waited_for_fence_total", "device.waitedForFence",
      "Buffers that the helper waited for, because devices still read them when the guest wanted them back."),
    .init(
      .counter, "protocol_errors_total", "device.protocolErrors", by: "kind",
      "Mistakes and failed requests of the guest, by the kind of mistake."),
  ]

  private static let lending: [MetricFamily] = [
    .init(
      .gauge, "lending_buffers", "device.lending.buffers.buffers",
      "Buffers that the guest's agent lends now, or that are on their way back."),
    .init(
      .gauge, "lending_imports", "device.lending.buffers.imports", "Imports of lent buffers now."),
    .init(
      .gauge, "lending_watchers", "device.lending.buffers.watchers",
      "Programs that watch lent buffers now."),
    .init(
      .counter, "lending_buffers_lent_total", "device.lending.buffers.lent",
      "Buffers that the guest's agent has lent."),
    .init(
      .counter, "lending_imports_total", "device.lending.buffers.imported",
      "Imports of lent buffers that were begun."),
    .init(
      .counter, "lending_buffers_returned_total", "device.lending.buffers.returned",
      "Lent buffers that were returned to their lender."),
    .init(
      .counter, "lending_buffers_revoked_total", "device.lending.buffers.revoked",
      "Lent buffers that ended because their lender, their resource or the session ended."),
    .init(
      .counter, "lending_imports_cut_off_total", "device.lending.buffers.cutOff",
      "Imports that were ended for the guest's sake."),
    .init(
      .counter, "port_sessions_total", "device.lending.port.sessions",
      "Sessions that the guest's agent has begun on the port."),
    .init(
      .counter, "port_lines_total", "device.lending.port.lines", "Lines that came from the guest's agent."),
    .init(
      .counter, "port_throttled_total", "device.lending.port.throttled",
      "How often the guest's agent had to wait because it sent too much."),
    .init(
      .counter, "port_connections_refused_total", "device.lending.port.refused",
      "Connections to the port that were refused."),
    .init(
      .counter, "port_errors_total", "device.lending.port.errors", by: "class",
      "Errors that the helper answered to the guest's agent, by their class."),
  ]

  private static let control: [MetricFamily] = [
    .init(
      .counter, "control_frames_total", "control.frames", "Frames that were offered on the control socket."),
    .init(
      .counter, "control_events_total", "control.events", "Frames that callers of Watch were told of."),
    .init(
      .counter, "control_frames_lost_total", "control.lost",
      "Frames that callers of Watch were too slow to be told of."),
    .init(.gauge, "control_holds", "control.holds", "Buffers that are held over the control socket now."),
    .init(.gauge, "control_watchers", "control.watchers", "Callers of Watch and Stream now."),
    .init(
      .counter, "control_holds_overdue_total", "control.overdue",
      "Holds that a later frame did not wait for any longer."),
    .init(
      .counter, "control_holds_cut_off_total", "control.cutOff",
      "Holds that were ended because the guest wanted its pages back."),
    .init(
      .gauge, "control_connections", "control.connections", "Connections to the control socket now."),
    .init(
      .counter, "control_connections_refused_total", "control.refused",
      "Connections to the control socket that were refused."),
  ]
}
