internal import Glibc
package import SystemPackage

/// Makes a symbolic link. The corresponding C function is `symlink`.
package func makeLink(_ path: FilePath, to target: FilePath) throws(Errno) {
  _ = try retrying {
    unsafe path.withPlatformString { link in
      unsafe target.withPlatformString { target in unsafe symlink(target, link) }
    }
  }
}

/// The path with all links resolved; unchanged if there is no such file. The corresponding C function is `realpath`.
package func resolvingLinks(_ path: FilePath) -> FilePath {
  unsafe path.withPlatformString { name in
    guard let resolved = unsafe realpath(name, nil) else { return path }
    defer { unsafe free(resolved) }
    return unsafe FilePath(platformString: resolved)
  }
}

/// The target of a link, as written in it; nil if the file is not a link. The corresponding C function is `readlink`.
package func linkTarget(_ path: FilePath) -> String? {
  unsafe path.withPlatformString { name in
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX)) { buffer in
      let count = unsafe readlink(name, buffer.baseAddress!, buffer.count)
      if count < 0 { return nil }
      return unsafe String(decoding: UnsafeRawBufferPointer(buffer).prefix(count), as: UTF8.self)
    }
  }
}
