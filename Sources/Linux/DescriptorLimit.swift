internal import CLinux
package import SystemPackage

/// Raises the soft limit on open descriptors to the hard one (`RLIMIT_NOFILE`): every lent buffer holds one.
/// - Returns: the number of descriptors that may then be open.
package func raiseDescriptorLimit() throws(Errno) -> UInt64 {
  var reached: UInt64 = 0
  _ = try retrying { unsafe cl_raise_descriptor_limit(&reached) }
  return reached
}
