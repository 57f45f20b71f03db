internal import Scanout

// The guest's questions about its screens: GET_DISPLAY_INFO and GET_EDID (virtio 1.3, 5.7.6.8).
extension GPUDevice {
  /// Asks the sink first, which may know better. If the sink left an earlier question unanswered, it is asked, but the
  /// guest does not wait for it.
  func answerDisplayInfo() -> Outcome {
    let own = Response.displayInfo(scanouts.displayInfo)
    let errand = Errand(ifAbandoned: own, by: .sink, patience: patience.inquiry)
    let isAsked = scanouts.sink?.inquire { [weak self] in
      guard let self else { return }
      finish(errand, .displayInfo(scanouts.displayInfo))
    }
    return isAsked == true && !sinkIsSilent ? .whenDone(errand) : .now(own)
  }

  /// The same for an EDID.
  func answerEDID(_ scanout: ScanoutID) throws(Mistake) -> Outcome {
    let own = try scanouts.edid(scanout)
    let errand = Errand(ifAbandoned: .edid(own), by: .sink, patience: patience.inquiry)
    let isAsked = scanouts.sink?.inquireEDID(of: scanout) { [weak self] bytes in
      guard let self else { return }
      // The outputs may have changed meanwhile.
      finish(errand, .edid(bytes ?? (try? scanouts.edid(scanout)) ?? own))
    }
    return isAsked == true && !sinkIsSilent ? .whenDone(errand) : .now(.edid(own))
  }

  private func finish(_ errand: Errand, _ response: Response) {
    sinkIsSilent = false
    errand.finish(response)
    wake()
  }
}
