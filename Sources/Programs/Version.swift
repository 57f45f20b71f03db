/// The version of the three programs, which is that of the newest heading of CHANGELOG.md.
package let programVersion = "0.1.0"
