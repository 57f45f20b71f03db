internal import Scanout

// What the guest asks about its screens: GET_DISPLAY_INFO and GET_EDID (virtio 1.3, 5.7.6.8).
extension GPUDevice {
  /// Whoever shows the frames may know better, and is asked first. Who left a question unanswered is asked, but not
  /// waited for.
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
      // The outputs may be others by now.
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
