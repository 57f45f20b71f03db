import Linux
import SystemPackage
import Testing

@testable import Metrics

/// The text that Prometheus reads.
@Suite struct MetricsTextTests {
  private func reading(
    _ domain: String, _ answer: Result<HelperCount, ReadingError>,
    after duration: TimeSpan = .milliseconds(250)
  ) -> HelperReading {
    HelperReading(HelperPlace(domain: domain, control: "/control"), began: .now, duration: duration, answer)
  }

  private func count(_ device: [String: HelperCount], control: [String: HelperCount] = [:]) -> HelperCount {
    .group(["device": .group(device), "control": .group(control)])
  }

  @Test("families are together, domains in their order, and absent numbers left out")
  func order() {
    let text = MetricsText.write([
      reading(
        "web",
        .success(
          count(
            ["flushes": .number(3), "shadows": .group(["b": .number(2), "a": .number(1)])],
            control: ["holds": .number(4)]))),
      reading("mail", .failure(.late(.seconds(1))), after: .seconds(1)),
      reading(
        "db", .success(count(["flushes": .number(.max), "other": .number(9)])), after: .nanoseconds(1)),
    ])
    #expect(
      text == """
        # HELP udmabridge_domains Domains whose helpers were asked for these metrics.
        # TYPE udmabridge_domains gauge
        udmabridge_domains 3
        # HELP udmabridge_up Whether the domain's helper answered: 1, or 0.
        # TYPE udmabridge_up gauge
        udmabridge_up{domain="web"} 1
        udmabridge_up{domain="mail"} 0
        udmabridge_up{domain="db"} 1
        # HELP udmabridge_scrape_duration_seconds The time until the domain's helper answered, or until the wait for it ended.
        # TYPE udmabridge_scrape_duration_seconds gauge
        udmabridge_scrape_duration_seconds{domain="web"} 0.25
        udmabridge_scrape_duration_seconds{domain="mail"} 1.0
        udmabridge_scrape_duration_seconds{domain="db"} 1e-09
        # HELP udmabridge_flushes_total Flushes of the guest (RESOURCE_FLUSH), counted once for each scanout that shows the resource.
        # TYPE udmabridge_flushes_total counter
        udmabridge_flushes_total{domain="web"} 3
        udmabridge_flushes_total{domain="db"} 18446744073709551615
        # HELP udmabridge_shadows_total Pictures that were shown by copying, by the cause.
        # TYPE udmabridge_shadows_total counter
        udmabridge_shadows_total{domain="web",cause="a"} 1
        udmabridge_shadows_total{domain="web",cause="b"} 2
        # HELP udmabridge_control_holds Buffers that are held over the control socket now.
        # TYPE udmabridge_control_holds gauge
        udmabridge_control_holds{domain="web"} 4

        """)
  }

  @Test("a host without domains says so")
  func none() {
    #expect(
      MetricsText.write([]).split(separator: "\n").filter { !$0.hasPrefix("#") } == ["udmabridge_domains 0"])
  }

  @Test(
    "a domain's name stands in a label as Prometheus reads it",
    arguments: [
      ("web", "web"), (#"a"b"#, #"a\"b"#), (#"a\b"#, #"a\\b"#), ("a\nb", #"a\nb"#), (#"\n"#, #"\\n"#),
      (#"\""#, #"\\\""#), ("a\r\nb", "a\r\\nb"), ("ä {} , = # ж 😀", "ä {} , = # ж 😀"),
      ("a\"} 1\nudmabridge_up{domain=\"b", #"a\"} 1\nudmabridge_up{domain=\"b"#), ("e\u{301}", "e\u{301}"),
    ])
  func escaping(_ name: String, _ written: String) {
    let lines = MetricsText.write([reading(name, .failure(.late(.seconds(1))))]).split(separator: "\n")
    // Compared as bytes: to Swift, one character may be several things.
    let samples = lines.filter { $0.hasPrefix("udmabridge_up") }.map { Array($0.utf8) }
    #expect(samples == [Array("udmabridge_up{domain=\"\(written)\"} 0".utf8)])
  }
}
