internal import Buffers
internal import Guest
internal import Linux
internal import SystemPackage

// Memory tables of a few bytes, and lists of entries, compared with a model that looks at every byte by itself.
// Nothing in `GuestMemory` depends on the size of a page.

private let fileSize: UInt64 = 256

/// A region as the input states it, good or bad.
private struct Claim {
  var address, user, offset, length: UInt64
  var file: Int

  init(_ input: inout Input) {
    // Near 0, at 4 GiB, and at the end of the address space.
    address = input.one(of: [0, 0, 0, 1 << 32, UInt64.max - 255]) &+ UInt64(input.byte())
    user = input.one(of: [0, 0x7f00_0000_0000, UInt64.max - 255]) &+ UInt64(input.byte())
    offset = UInt64(input.byte())
    length = UInt64(input.byte() % 64)
    file = Int(input.byte() & 1)
    // Now and then any number at all.
    switch input.byte() {
    case 0xf0: length = input.number()
    case 0xf1: offset = input.number()
    case 0xf2: (length, offset) = (0 &- offset, offset)
    default: break
    }
  }

  var isGood: Bool {
    length > 0 && !address.addingReportingOverflow(length).overflow
      && !user.addingReportingOverflow(length).overflow && !offset.addingReportingOverflow(length).overflow
      && offset + length <= fileSize
  }

  func overlaps(_ other: Claim) -> Bool {
    address < other.address + other.length && other.address < address + length
  }
}

/// The model of a table and of the files under it.
private struct Model {
  var regions: [Claim] = []
  var content = [[UInt8]](repeating: [UInt8](repeating: 0, count: Int(fileSize)), count: 2)

  /// The byte at a guest address.
  func place(_ address: UInt64) -> (file: Int, offset: UInt64)? {
    for region in regions where address >= region.address && address - region.address < region.length {
      return (region.file, region.offset + (address - region.address))
    }
    return nil
  }

  /// The bytes of a list in order, up to the first that is not there.
  func bytes(_ entries: [GuestRange]) -> (places: [(file: Int, offset: UInt64)], error: GuestMemoryError?) {
    var places: [(file: Int, offset: UInt64)] = []
    for (item, entry) in entries.enumerated() {
      if entry.length == 0 { return (places, .emptyRange(item: item)) }
      let (end, overflow) = entry.address.rawValue.addingReportingOverflow(entry.length)
      if overflow { return (places, .overflow(item: item, entry)) }
      for address in entry.address.rawValue..<end {
        guard let place = place(address) else { return (places, .hole(item: item, GuestAddress(address))) }
        places.append(place)
      }
    }
    return (places, nil)
  }

  /// So many bytes behind an entry that is there, or none if its last region does not have as many.
  func behind(_ entry: GuestRange, _ count: Int) -> [(file: Int, offset: UInt64)] {
    let last = entry.address.rawValue + (entry.length - 1)
    guard let region = regions.first(where: { last >= $0.address && last - $0.address < $0.length }),
      region.length - (last - region.address) - 1 >= UInt64(count)
    else { return [] }
    return (1...UInt64(count)).map { (region.file, region.offset + (last - region.address) + $0) }
  }

  /// The fewest ranges that hold these bytes in this order.
  func joined(_ places: some Sequence<(file: Int, offset: UInt64)>, _ files: [Memfd]) -> [MemfdRange] {
    var ranges: [MemfdRange] = []
    for place in places {
      if let last = ranges.last, last.memfd === files[place.file], last.offset + last.length == place.offset {
        ranges[ranges.count - 1].length += 1
      } else {
        ranges.append(MemfdRange(memfd: files[place.file], offset: place.offset, length: 1))
      }
    }
    return ranges
  }
}

func fuzzMemory(_ input: inout Input) throws {
  var model = Model()
  var memory = GuestMemory()
  let files = try (0..<2).map { try Memfd.create(name: "fuzz-\($0)", size: fileSize) }
  var steps = 0
  while !input.isEmpty, steps < 64 {
    steps += 1
    switch input.byte() % 10 {
    case 0, 1: add(Claim(&input), files, &memory, &model)
    case 2: remove(&input, &memory, &model)
    case 3, 4: resolve(&input, files, memory, model)
    case 5: read(&input, memory, model)
    case 6: store(&input, memory, &model)
    case 7: window(&input, memory, model)
    default: try copy(&input, memory, model)
    }
  }
}

private func add(_ claim: Claim, _ files: [Memfd], _ memory: inout GuestMemory, _ model: inout Model) {
  let backing = MemfdRange(memfd: files[claim.file], offset: claim.offset, length: claim.length)
  let region: MemoryRegion
  do throws(GuestMemoryError) {
    region = try MemoryRegion(
      guestAddress: GuestAddress(claim.address), userAddress: claim.user, backing: backing,
      besides: claim.offset % 2 == 0 ? memory.regions.first { $0.backing.memfd === backing.memfd } : nil)
  } catch {
    return expect(!claim.isGood, "\(claim) was refused: \(error)")
  }
  expect(claim.isGood, "\(claim) was taken")
  let isFree = !model.regions.contains(where: claim.overlaps)
  do throws(GuestMemoryError) {
    memory = try memory.adding(region)
    expect(isFree, "\(claim) overlaps and was taken")
    model.regions.append(claim)
    model.regions.sort { $0.address < $1.address }
  } catch {
    expect(!isFree, "\(claim) overlaps nothing and was refused: \(error)")
  }
}

private func remove(_ input: inout Input, _ memory: inout GuestMemory, _ model: inout Model) {
  guard !model.regions.isEmpty else { return }
  let index = Int(input.byte()) % model.regions.count
  let claim = model.regions[index]
  // An odd byte names a region that is not there.
  let user = claim.user &+ UInt64(input.byte() & 1)
  do throws(GuestMemoryError) {
    memory = try memory.removing(
      GuestAddress(claim.address), userAddress: user, length: claim.length)
    expect(user == claim.user, "a region was removed by another's address")
    model.regions.remove(at: index)
  } catch {
    expect(user != claim.user && error == .noSuchRegion(GuestAddress(claim.address)), "\(error)")
  }
}

/// Most often within a region of the table, so that lists get far.
private func range(_ input: inout Input, _ model: Model) -> GuestRange {
  let kind = input.byte()
  var address = UInt64(input.byte())
  if kind & 3 != 0, !model.regions.isEmpty {
    let region = model.regions[Int(kind >> 2) % model.regions.count]
    address = region.address &+ address % (region.length + 1)
  } else if kind == 0 {
    address = input.number()
  }
  let length = input.byte()
  // A length that only overflow could make fit, or that ends far behind everything.
  return GuestRange(
    address: GuestAddress(address), length: length == 0xff ? input.number() : UInt64(length % 80))
}

private func resolve(_ input: inout Input, _ files: [Memfd], _ memory: GuestMemory, _ model: Model) {
  let limit = input.byte()
  let entries = (0..<Int(input.byte() % 16)).map { _ in range(&input, model) }
  let (places, error) = model.bytes(entries)
  let bound = limit >= 0x80 ? UInt64.max : UInt64(limit)
  // A list that lacks a few bytes at its end is completed.
  let length = limit >= 0x80 ? UInt64.max : bound - min(bound, UInt64(limit % 8))
  do throws(GuestMemoryError) {
    let ranges = try memory.resolve(entries, upTo: bound, completing: length)
    expect(error == nil, "\(entries) should have failed: \(error!)")
    var wanted = places
    if places.count >= length, places.count < bound, let last = entries.last {
      wanted += model.behind(last, Int(bound) - places.count)
    }
    let expected = model.joined(wanted.prefix(Int(clamping: bound)), files)
    expect(ranges == expected, "\(entries) is \(ranges) instead of \(expected)")
  } catch let thrown {
    expect(thrown == error, "\(entries) failed with \(thrown) instead of \(String(describing: error))")
  }
}

private func read(_ input: inout Input, _ memory: GuestMemory, _ model: Model) {
  let range = range(&input, model)
  let (places, error) = model.bytes(range.length == 0 ? [] : [range])
  var bytes: [UInt8] = []
  var thrown: GuestMemoryError?
  do throws(GuestMemoryError) { try memory.append(range, to: &bytes) } catch { thrown = error }
  expect(thrown == error, "reading \(range): \(String(describing: thrown))")
  expect(bytes == places.map { model.content[$0.file][Int($0.offset)] }, "\(range) reads otherwise")
}

private func store(_ input: inout Input, _ memory: GuestMemory, _ model: inout Model) {
  let address = range(&input, model).address
  let bytes = input.take(Int(input.byte() % 80))
  let range = GuestRange(address: address, length: UInt64(bytes.count))
  let (places, error) = model.bytes(bytes.isEmpty ? [] : [range])
  for (byte, place) in zip(bytes, places) { model.content[place.file][Int(place.offset)] = byte }
  var thrown: GuestMemoryError?
  do throws(GuestMemoryError) {
    unsafe try memory.store(bytes.span.bytes, at: address)
  } catch { thrown = error }
  expect(thrown == error, "writing \(range): \(String(describing: thrown))")
}

private func window(_ input: inout Input, _ memory: GuestMemory, _ model: Model) {
  let user = input.one(of: [0, 0x7f00_0000_0000, UInt64.max - 255]) &+ UInt64(input.byte())
  let length = UInt64(input.byte() % 80)
  let region = model.regions.first {
    user >= $0.user && user - $0.user < $0.length && user - $0.user + length <= $0.length
  }
  do throws(GuestMemoryError) {
    let window = try memory.window(userAddress: user, length: Int(length))
    guard let region else { fail("a window where there is no region") }
    let start = Int(region.offset + (user - region.user))
    expect(
      window.mapping.bytes(at: window.start, count: window.length)
        == Array(model.content[region.file][start..<start + Int(length)]), "a window shows other bytes")
  } catch {
    expect(region == nil, "no window at \(hex(user)): \(error)")
  }
}

/// Rows of a list's bytes, as a copy of a picture takes them.
private func copy(_ input: inout Input, _ memory: GuestMemory, _ model: Model) throws {
  let entries = (0..<Int(input.byte() % 6) + 1).map { _ in range(&input, model) }
  guard let ranges = try? memory.resolve(entries) else { return }
  let bytes = model.bytes(entries).places.map { model.content[$0.file][Int($0.offset)] }
  let source = ByteSource(memory.files(of: ranges).windows(of: ranges))
  expect(source.length == bytes.count, "\(source.length) of \(bytes.count) bytes")
  let some = Int(input.byte())
  let padded = bytes + [UInt8](repeating: 0, count: max(0, some - bytes.count))
  expect(source.bytes(upTo: some) == Array(padded.prefix(some)), "the first \(some) bytes")

  let form = input.byte()
  let order = (form & 3, form >> 2 & 3, form >> 4 & 3, form >> 6)
  let shuffle = form == 0 ? nil : PixelShuffle(order: order, set: UInt32(input.byte()) << 24)
  let count = Int(input.byte() % 16) * (shuffle == nil ? 1 : 4)
  let (rows, offset) = (Int(input.byte() % 8), Int(input.byte()))
  let (stride, targetStride) = (count + Int(input.byte() % 9), count + Int(input.byte() % 9))
  let place = Int(input.byte() % 32)
  let size = 1024
  let target = try Memfd.create(name: "fuzz-copy", size: UInt64(size)).withDescriptor { fd throws(Errno) in
    try Mapping(fd, offset: 0, length: size, writable: true)
  }
  source.copyRows(
    rows, of: count, from: offset, stride: stride, to: target, at: place, targetStride: targetStride, shuffle)

  var expected = [UInt8](repeating: 0, count: size)
  for row in 0..<rows {
    for index in 0..<count {
      let from = offset + row * stride + index
      let to = place + row * targetStride + index
      guard let shuffle else {
        if from < bytes.count { expected[to] = bytes[from] }
        continue
      }
      // A pixel of which a part is missing is left out.
      let pixel = from - index % 4
      if pixel + 4 > bytes.count { continue }
      let order = [shuffle.order.0, shuffle.order.1, shuffle.order.2, shuffle.order.3]
      let set = UInt8(truncatingIfNeeded: shuffle.set >> (8 * UInt32(index % 4)))
      expected[to] = bytes[pixel + Int(order[index % 4])] | set
    }
  }
  expect(target.bytes(at: 0, count: size) == expected, "rows are copied otherwise")
}
