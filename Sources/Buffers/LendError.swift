package import Guest
internal import Linux
package import SystemPackage
package import Udmabuf

/// Why guest memory could not be lent.
package enum LendError: Error, Equatable {
  /// The guest named memory that it does not have.
  case memory(GuestMemoryError)
  /// The guest's list covers less than the image needs.
  case short(bytes: UInt64, needed: UInt64)
  /// An entry of the list does not begin or end at a page.
  case unaligned(UdmabufError)
  case udmabuf(UdmabufError)
  /// `/dev/udmabuf` could not be opened.
  case noDevice(Errno)
  /// This process may open no more descriptors.
  case descriptors(limit: Int)
  case quota(Quota, needed: UInt64, limit: UInt64)

  package enum Quota: String, Sendable, CaseIterable {
    case resources, pinnedBytes, entries, bookkeepingBytes, shadowBytes
  }

  /// An error of udmabuf's checks for a guest's page list.
  package init(_ error: UdmabufError) {
    switch error {
    case .offsetMisaligned, .lengthMisaligned: self = .unaligned(error)
    default: self = .udmabuf(error)
    }
  }

  /// The cause for a copy, if a copy helps; nil for memory that the guest does not have, and for quotas.
  package var cause: ShadowCause.Name? {
    switch self {
    case .memory, .quota: nil
    case .short: .shortBacking
    case .unaligned: .unalignedEntry
    case .noDevice(.permissionDenied), .noDevice(.notPermitted): .noPermission
    case .noDevice: .noDevice
    case .descriptors: .descriptorLimit
    case .udmabuf(let error):
      switch error {
      case .tooManyItems: .listLimit
      case .tooManyBytes: .sizeLimit
      case .notMemfd, .sealMissing, .sealForbidden: .notSealedMemfd
      default: .udmabuf
      }
    }
  }
}

extension LendError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .memory(let error): "\(error)"
    case .short(let bytes, let needed):
      "the page list covers \(bytes) bytes, but the image needs \(needed)"
    case .unaligned(let error), .udmabuf(let error): "\(error)"
    case .noDevice(.permissionDenied), .noDevice(.notPermitted):
      "\(UdmabufDevice.path) may not be opened by this user; join the group that owns it "
        + "(kvm on most systems), or allow the device in the cgroup"
    case .noDevice(let errno):
      "\(UdmabufDevice.path) cannot be opened (\(errno)); the kernel needs CONFIG_UDMABUF"
    case .descriptors(let limit):
      "no descriptor is free: this process may have \(limit) open (RLIMIT_NOFILE), keeps \(Quotas.reservedDescriptors) for "
        + "QEMU, and needs one for each buffer; raise the hard limit before it is started (ulimit -Hn, or "
        + "LimitNOFILE= of a service)"
    case .quota(let quota, let needed, let limit):
      "\(needed) would exceed this guest's quota of \(limit) \(quota.words)"
    }
  }
}

extension LendError.Quota {
  var words: String {
    switch self {
    case .resources: "resources"
    case .pinnedBytes: "pinned bytes"
    case .entries: "entries in a page list"
    case .bookkeepingBytes: "bytes of bookkeeping"
    case .shadowBytes: "bytes of copies"
    }
  }
}
