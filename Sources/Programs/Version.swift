/// Of both programs; the newest heading of the CHANGELOG has it.
package let programVersion = "0.1.0"
