import Udmabuf

// Two ranges of a memfd as one dma-buf of 20 KiB.
let memfd = try Memfd.create(name: "frames", size: 64 << 20, seals: [.shrink])
let device = try UdmabufDevice()
let buffer = try device.create([
  MemfdRange(memfd: memfd, offset: 0x10000, length: 0x4000),
  MemfdRange(memfd: memfd, offset: 0x80000, length: 0x1000),
])

// What is written into the memfd is read from the dma-buf: nothing was copied.
let frames = try memfd.withDescriptor { try Mapping($0, offset: 0, length: 64 << 20, writable: true) }
frames.store(UInt32(42), at: 0x80000)
try buffer.beginCPUAccess(.read)
let answer = try buffer.map().load(UInt32.self, at: 0x4000)
try buffer.endCPUAccess(.read)
print("a dma-buf of \(buffer.size) bytes, inode \(buffer.inode), says \(answer)")
