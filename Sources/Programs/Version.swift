/// Of both programs; the CHANGELOG begins with it.
package let programVersion = "0.1.0"
