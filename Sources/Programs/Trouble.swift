/// An error of a program, in one line.
package struct Trouble: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}
