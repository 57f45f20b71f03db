/// The FNV-1a hash, in eight digits.
package func fnv1a(_ bytes: some Sequence<UInt8>) -> String {
  let hash = bytes.reduce(UInt32(2_166_136_261)) { ($0 ^ UInt32($1)) &* 16_777_619 }
  let digits = String(hash, radix: 16)
  return String(repeating: "0", count: 8 - digits.count) + digits
}
