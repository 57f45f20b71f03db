internal import CXML2

/// An XML document that can be changed. The rest stays as it is: comments, white space, and unknown elements.
@safe package final class XMLDocument {
  private let document: xmlDocPtr
  /// Whether it began with an XML declaration.
  private let hasDeclaration: Bool

  /// The longest document in bytes. libxml2 itself limits the depth (256 elements) and the length of a text (10 MB).
  package static let longest = 16 << 20

  /// Reads a document. It fetches nothing, and refuses a document type, so that no entity can grow.
  package init(_ text: [UInt8]) throws(XMLError) {
    guard text.count <= Self.longest else { throw .tooLong(text.count) }
    guard let context = unsafe xmlNewParserCtxt() else { throw .unreadable(line: 0, "no memory") }
    defer { unsafe xmlFreeParserCtxt(context) }
    let options = XML_PARSE_NONET.rawValue | XML_PARSE_NOERROR.rawValue | XML_PARSE_NOWARNING.rawValue
    let read = unsafe text.withUnsafeBytes { bytes in
      unsafe xmlCtxtReadMemory(
        context, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), CInt(bytes.count), nil, nil,
        CInt(options))
    }
    guard let read = unsafe read else {
      let error = unsafe xmlCtxtGetLastError(context)
      let line = unsafe error?.pointee.line ?? 0
      let message = unsafe error.flatMap { unsafe $0.pointee.message.map { unsafe String(cString: $0) } }
      throw .unreadable(
        line: Int(line), (message ?? "no XML").split(separator: "\n").first.map(String.init) ?? "")
    }
    unsafe document = read
    hasDeclaration = text.starts(with: "<?xml".utf8)
    if unsafe read.pointee.intSubset != nil { throw .documentType }
    guard unsafe xmlDocGetRootElement(read) != nil else { throw .unreadable(line: 0, "no element") }
  }

  deinit { unsafe xmlFreeDoc(document) }

  /// The outermost element.
  package var root: XMLElement {
    guard let node = unsafe xmlDocGetRootElement(document) else { preconditionFailure("it was there") }
    return unsafe XMLElement(node, self)
  }

  /// The whole text, in UTF-8.
  package var text: String {
    guard let buffer = unsafe xmlBufferCreate() else { return "" }
    defer { unsafe xmlBufferFree(buffer) }
    let options = hasDeclaration ? 0 : XML_SAVE_NO_DECL.rawValue
    guard let context = unsafe xmlSaveToBuffer(buffer, "UTF-8", CInt(options)) else { return "" }
    unsafe xmlSaveDoc(context, document)
    unsafe xmlSaveClose(context)
    return unsafe string(xmlBufferContent(buffer))
  }

  /// A piece of XML that is not in the document yet, in its namespaces.
  /// - Parameter text: our own, and well-formed.
  package func make(_ text: String) throws(XMLError) -> XMLElement {
    let source = try XMLDocument(Array(text.utf8))
    return source.root.copy(for: self)
  }

  /// Copies a node into this document.
  fileprivate func adopt(_ node: xmlNodePtr) -> XMLElement {
    guard let copy = unsafe xmlDocCopyNode(node, document, 1) else { preconditionFailure("no memory") }
    return unsafe XMLElement(copy, self)
  }
}

/// An element of a document, valid as long as it is in the document.
@safe package struct XMLElement {
  private let node: xmlNodePtr
  /// The document, which keeps the node.
  package let document: XMLDocument

  fileprivate init(_ node: xmlNodePtr, _ document: XMLDocument) {
    unsafe self.node = node
    self.document = document
  }

  /// The name without a prefix.
  package var name: String { unsafe string(node.pointee.name) }

  /// The namespace's URI; nil for an element without one.
  package var namespace: String? {
    unsafe node.pointee.ns.flatMap { unsafe $0.pointee.href.map { unsafe string($0) } }
  }

  /// An attribute without a namespace; nil if it is missing.
  package subscript(attribute: String) -> String? {
    get {
      guard let value = unsafe xmlGetNoNsProp(node, attribute) else { return nil }
      defer { unsafe cxml_free(value) }
      return unsafe string(value)
    }
    nonmutating set {
      if let newValue {
        unsafe xmlSetNsProp(node, nil, attribute, newValue)
      } else if let old = unsafe xmlHasNsProp(node, attribute, nil) {
        unsafe xmlRemoveProp(old)
      }
    }
  }

  /// Whether it has an attribute.
  package var hasAttributes: Bool { unsafe node.pointee.properties != nil }

  /// The text in it.
  package var text: String {
    guard let content = unsafe xmlNodeGetContent(node) else { return "" }
    defer { unsafe cxml_free(content) }
    return unsafe string(content)
  }

  /// Its child elements.
  package var children: [XMLElement] {
    var found: [XMLElement] = []
    var next = unsafe node.pointee.children
    while let child = unsafe next {
      if unsafe child.pointee.type == XML_ELEMENT_NODE { found.append(unsafe XMLElement(child, document)) }
      unsafe next = child.pointee.next
    }
    return found
  }

  /// Its child elements of a name, without a namespace.
  package func children(_ name: String) -> [XMLElement] {
    children.filter { $0.name == name && $0.namespace == nil }
  }

  /// Its first child element of a name, without a namespace.
  package func child(_ name: String) -> XMLElement? { children(name).first }

  /// The element at the end of a path of names.
  package func descendant(_ names: String...) -> XMLElement? {
    names.reduce(self as XMLElement?) { $0?.child($1) }
  }

  /// Whether it has neither elements nor text nor comments.
  package var isEmpty: Bool {
    var next = unsafe node.pointee.children
    while let child = unsafe next {
      guard unsafe xmlIsBlankNode(child) == 1 else { return false }
      unsafe next = child.pointee.next
    }
    return true
  }

  /// Its text as it would be written.
  package var description: String {
    guard let buffer = unsafe xmlBufferCreate() else { return "" }
    defer { unsafe xmlBufferFree(buffer) }
    unsafe xmlNodeDump(buffer, node.pointee.doc, node, 0, 0)
    return unsafe string(xmlBufferContent(buffer))
  }

  // MARK: Changes

  /// A copy for another document, not inserted yet.
  package func copy(for other: XMLDocument) -> XMLElement { unsafe other.adopt(node) }

  /// Inserts a new element in front of this one, in a line of its own.
  package func insertBefore(_ element: XMLElement) {
    unsafe xmlAddPrevSibling(node, element.node)
    if let indent = indentation { unsafe xmlAddPrevSibling(node, text(indent)) }
    element.indent(to: element.indentation)
  }

  /// Inserts a new element behind this one, in a line of its own.
  package func insertAfter(_ element: XMLElement) {
    unsafe xmlAddNextSibling(node, element.node)
    if let indent = indentation { unsafe xmlAddPrevSibling(element.node, text(indent)) }
    element.indent(to: element.indentation)
  }

  /// Inserts a new element behind all others in this one, in a line of its own.
  package func append(_ element: XMLElement) {
    if let last = children.last { return last.insertAfter(element) }
    let own = indentation
    if isEmpty { removeBlanks() }
    if let own { unsafe xmlAddChild(node, text(own + "  ")) }
    unsafe xmlAddChild(node, element.node)
    if let own { unsafe xmlAddChild(node, text(own)) }
    element.indent(to: element.indentation)
  }

  /// Removes it from its document for good, with its line. It must not be used afterwards.
  package func remove() {
    let before = unsafe node.pointee.prev
    if let before = unsafe before, unsafe xmlIsBlankNode(before) == 1 {
      unsafe xmlUnlinkNode(before)
      unsafe xmlFreeNode(before)
    }
    let parent = unsafe node.pointee.parent
    unsafe xmlUnlinkNode(node)
    unsafe xmlFreeNode(node)
    // Otherwise <a>\n</a> would be left.
    if let parent = unsafe parent, unsafe parent.pointee.type == XML_ELEMENT_NODE {
      let parent = unsafe XMLElement(parent, document)
      if parent.isEmpty { parent.removeBlanks() }
    }
  }

  private func removeBlanks() {
    while let child = unsafe node.pointee.children {
      unsafe xmlUnlinkNode(child)
      unsafe xmlFreeNode(child)
    }
  }

  private func text(_ content: String) -> xmlNodePtr {
    guard let made = unsafe xmlNewText(content) else { preconditionFailure("no memory") }
    return unsafe made
  }

  /// The white space before it: a line's end and blanks; nil if other elements are in its line.
  private var indentation: String? {
    guard let before = unsafe node.pointee.prev else {
      return unsafe node.pointee.parent.map { unsafe $0.pointee.type == XML_DOCUMENT_NODE } == true
        ? "\n" : nil
    }
    guard unsafe xmlIsBlankNode(before) == 1, let content = unsafe before.pointee.content else {
      return unsafe before.pointee.type == XML_COMMENT_NODE
        && node.pointee.parent?.pointee.type == XML_DOCUMENT_NODE
        ? "\n" : nil
    }
    let text = unsafe string(content)
    return text.lastIndex(of: "\n").map { String(text[$0...]) }
  }

  /// Indents its inner lines anew, two blanks for each level; only elements without text.
  private func indent(to indentation: String?) {
    let inner = children
    guard let indentation, !inner.isEmpty, holdsElementsOnly else { return }
    var next = unsafe node.pointee.children
    while let child = unsafe next {
      unsafe next = child.pointee.next
      if unsafe xmlIsBlankNode(child) == 1 {
        unsafe xmlUnlinkNode(child)
        unsafe xmlFreeNode(child)
      }
    }
    for child in inner {
      unsafe xmlAddPrevSibling(child.node, text(indentation + "  "))
      child.indent(to: indentation + "  ")
    }
    unsafe xmlAddChild(node, text(indentation))
  }

  private var holdsElementsOnly: Bool {
    var next = unsafe node.pointee.children
    while let child = unsafe next {
      guard unsafe child.pointee.type == XML_ELEMENT_NODE || xmlIsBlankNode(child) == 1 else { return false }
      unsafe next = child.pointee.next
    }
    return true
  }
}

/// Why a document cannot be read.
package enum XMLError: Error, Equatable, CustomStringConvertible {
  case unreadable(line: Int, String)
  case tooLong(Int)
  case documentType

  package var description: String {
    switch self {
    case .unreadable(let line, let why): "the XML cannot be read (line \(line)): \(why)"
    case .tooLong(let count): "the XML has \(count) bytes, but the limit is \(XMLDocument.longest)"
    case .documentType: "the XML has a document type (<!DOCTYPE>), which is refused; a domain needs none"
    }
  }
}

private func string(_ text: UnsafePointer<xmlChar>?) -> String {
  guard let text = unsafe text else { return "" }
  return unsafe String(decodingCString: text, as: UTF8.self)
}
