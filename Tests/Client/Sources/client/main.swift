import Foundation
import Linux
import NIOCore
import Udmabuf

// Foundation's and NIO's: the library brings no names that are not about udmabuf.
let timer = Timer(timeInterval: 1, repeats: false) { _ in }
let loops: [any EventLoop] = []

let memfd = try Memfd.create(name: "client", size: bytes(ofPages: 16), seals: [.shrink])
let range = MemfdRange(memfd: memfd, offset: bytes(ofPages: 4), length: bytes(ofPages: 3))
let buffer = try UdmabufDevice().create(range)
print(
  "a dma-buf of \(buffer.size) bytes; \(loops.count) loops, \(timer.isValid ? "a" : "no") timer")
