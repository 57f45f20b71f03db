import Testing

@testable import Libvirt

/// Documents that come from outside.
@Suite struct XMLTests {
  @Test(
    "text that is no well-formed document, or too deep, is refused",
    arguments: [
      ("nothing", ""), ("half", "<domain><name>"), ("no XML", "domain"), ("NUL", "<domain>\0</domain>"),
      ("no UTF-8", "<domain>\u{1}</domain>"), ("two", "<domain/><domain/>"),
      ("depth", String(repeating: "<a>", count: 400) + String(repeating: "</a>", count: 400)),
    ])
  func refused(_ name: String, _ text: String) {
    #expect {
      _ = try XMLDocument(Array(text.utf8))
    } throws: { error in
      if case .unreadable? = error as? XMLError { true } else { false }
    }
  }

  @Test("a document type is refused, whatever its entities would grow to")
  func documentType() {
    let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domain>&b;</domain>"
    #expect(throws: XMLError.documentType) { try XMLDocument(Array(bomb.utf8)) }
  }

  @Test("a document within the limit of the length is read, and a longer one is refused")
  func length() throws {
    let comment = "<!--\(String(repeating: "x", count: 1 << 20))-->"
    let text = "<domain>" + String(repeating: comment, count: 15) + "</domain>"
    #expect(try XMLDocument(Array(text.utf8)).root.name == "domain")
    let long = text + String(repeating: " ", count: 1 << 20)
    #expect(throws: XMLError.tooLong(long.utf8.count)) { try XMLDocument(Array(long.utf8)) }
  }

  @Test("a document that is not changed is written as it was read")
  func kept() throws {
    let text = """
      <?xml version="1.0" encoding="UTF-8"?>
      <!-- before -->
      <domain xmlns:q="urn:q" type="kvm">
        <name>a &amp; b \u{fc}</name><q:x q:y="1"/>
          <odd/> text <![CDATA[<raw>]]>
        <?word of the wise?>
      </domain>
      <!-- after -->

      """
    #expect(try XMLDocument(Array(text.utf8)).text == text)
  }

  @Test("elements that come and go have lines of their own")
  func lines() throws {
    let document = try XMLDocument(Array("<a>\n  <b/>\n  <d/>\n</a>\n".utf8))
    document.root.child("b")?.insertAfter(try document.make("<c><x/></c>"))
    document.root.child("d")?.remove()
    document.root.child("b")?.append(try document.make("<y/>"))
    #expect(
      document.text == "<a>\n  <b>\n    <y/>\n  </b>\n  <c>\n    <x/>\n  </c>\n</a>\n", "\(document.text)")
    document.root.child("c")?.child("x")?.remove()
    #expect(document.text == "<a>\n  <b>\n    <y/>\n  </b>\n  <c/>\n</a>\n", "\(document.text)")
  }
}
