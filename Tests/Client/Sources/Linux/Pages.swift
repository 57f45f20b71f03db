/// The size of so many pages, in bytes.
public func bytes(ofPages count: UInt64) -> UInt64 { count * 4096 }
