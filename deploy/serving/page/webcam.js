// Takes frames of the webcam, one after the other: the next when the last has been answered.

const LONGEST = 1280; // pixels of a frame's longer side
const QUALITY = 0.9; // of its JPEG

export class Webcam {
  // The button that starts and stops it, and what its user does: begin(), frame(blob, bitmap), say(text, isError).
  constructor(button, user) {
    Object.assign(this, { button, user, run: 0, stream: null });
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    button.addEventListener("click", () => (this.stream ? this.stop() : this.start()));
  }

  async start() {
    if (!navigator.mediaDevices) {
      this.user.say("A browser lets a page use the webcam at localhost or by HTTPS only.", true);
      return;
    }
    const run = (this.run += 1);
    this.user.say("Waiting for the webcam ...");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: LONGEST } }, audio: false });
      if (run !== this.run) {
        stream.getTracks().forEach((track) => track.stop());
        return;
      }
      this.stream = this.video.srcObject = stream;
      stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
      await this.video.play();
      this.show(true);
      this.user.begin();
      await this.loop(run);
    } catch (error) {
      if (run !== this.run) return;
      this.stop();
      const reasons = { NotAllowedError: "The browser did not allow the webcam.", NotFoundError: "There is no webcam." };
      this.user.say(reasons[error.name] || `The webcam stopped: ${error.message}`, true);
    }
  }

  async loop(run) {
    const canvas = document.createElement("canvas");
    let shown = performance.now();
    while (run === this.run) {
      const scale = Math.min(1, LONGEST / Math.max(this.video.videoWidth, this.video.videoHeight));
      canvas.width = Math.round(this.video.videoWidth * scale);
      canvas.height = Math.round(this.video.videoHeight * scale);
      canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
      const bitmap = await createImageBitmap(canvas);
      if (run !== this.run || !(await this.user.frame(blob, bitmap))) return;
      const now = performance.now();
      this.user.say(`Webcam, ${canvas.width} x ${canvas.height}: ${(1000 / (now - shown)).toFixed(1)} images a second`);
      shown = now;
      await new Promise((done) => requestAnimationFrame(done)); // which waits while the page is hidden
    }
  }

  stop() {
    this.run += 1;
    if (!this.stream) return;
    this.stream.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
    this.show(false);
    this.user.say("The webcam is off.");
  }

  show(on) {
    this.button.setAttribute("aria-pressed", String(on));
    this.button.textContent = on ? "Stop webcam" : "Start webcam";
  }
}
