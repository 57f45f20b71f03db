// Commands of any bytes, each in one chain, on the control and on the cursor queue.

func fuzzCommands(_ input: inout Input) throws {
  let machine = try Machine()
  for _ in 0..<32 where !input.isEmpty {
    let (form, room) = (input.byte(), input.one(of: [24, 24, 0, 23, 25, 407, 408, 1055, 1056, 2048]))
    let queue = Int(form & 1)
    let (pieces, answerPieces) = (Int(form >> 1 & 7) + 1, Int(form >> 4 & 3) + 1)
    let content = input.take(Int(input.byte()))
    // A driver waits for a free descriptor; the cursor queue is answered at once.
    guard machine.hasRoom(queue, 1) else { continue }
    machine.send(content, room: room, on: queue, pieces: pieces, answerPieces: answerPieces)
    machine.collect()
    if form & 0x80 != 0 { try machine.settle() }
    machine.checkQuotas()
  }
  try machine.finish()
}
