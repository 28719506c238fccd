// Takes one photo with the camera.

import { button, fill, h } from "./dom.js";
import { dialog } from "./dialogs.js";
import { t } from "./text.js";

/** Resolves with a photo as a File, or null. The camera is switched off when the dialog closes. */
export async function takePhoto(signal) {
  let stream = null;
  let closed = false;
  const photo = await dialog(t("camera.title"), (done) => {
    const video = h("video", { class: "viewfinder", autoplay: true, muted: true, playsinline: true, "aria-label": t("camera.picture") });
    const status = h("p", { class: "hint", role: "status" }, t("camera.starting"));
    const shoot = button(t("camera.shoot"), async () => {
      const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      const picture = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.93));
      done(new File([picture], `${t("camera.file")} ${new Date().toLocaleTimeString()}.jpg`, { type: "image/jpeg" }));
    }, { look: "primary", iconName: "camera", disabled: true });
    (async () => {
      if (!navigator.mediaDevices?.getUserMedia) { fill(status, t("camera.insecure")); return; }
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } }, audio: false });
        if (closed) { stop(stream); return; }
        video.muted = true;
        video.srcObject = stream;
        await video.play();
        shoot.disabled = false;
        fill(status, t("camera.ready"));
        shoot.focus();
      } catch (error) {
        if (!closed) fill(status, t(error.name === "NotFoundError" ? "camera.none" : "camera.refused"));
      }
    })();
    return [h("div", { class: "viewfinder-frame" }, video), status, h("div", { class: "actions" }, button(t("cancel"), () => done(null)), shoot)];
  }, { wide: true, signal });
  closed = true;
  stop(stream);
  return photo;
}

function stop(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}
