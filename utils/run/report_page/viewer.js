// The report's viewer: one NiiVue canvas for each of truth, baseline, reconstruction and error, moved together.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const state = document.documentElement.dataset;
  const problems = [];
  const fail = (message) => {
    state.viewer = `failed: ${message}`;
    $("viewer").hidden = true;
    $("viewer-message").textContent = message;
  };
  window.addEventListener("error", (event) => problems.push(event.message));
  window.addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
  state.viewer = "loading";
  $("viewer-message").textContent = "Opening the viewer \u2026";
  const NEEDED = "The viewer needs a browser with WebGL2, which this one does not have or has switched off. " +
    "The rest of this page is complete without it.";
  if (!window.DecompressionStream) return fail(NEEDED);

  async function unzip(base64) {
    const letters = atob(base64), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  // The values of one of our NIfTI files, as floats.
  const HEADER = 352;
  function values(file) {
    const view = new DataView(file);
    const slope = view.getFloat32(112, true), offset = view.getFloat32(116, true);
    return Float32Array.from(new Int16Array(file, HEADER), (value) => value * slope + offset);
  }

  // A NIfTI file of float32 with the header of `like`.
  function floatFile(like, array) {
    const file = new ArrayBuffer(HEADER + array.byteLength), view = new DataView(file);
    new Uint8Array(file).set(new Uint8Array(like, 0, HEADER));
    view.setInt16(70, 16, true);          // datatype: float32
    view.setInt16(72, 32, true);          // bits a voxel
    view.setFloat32(112, 1, true);        // slope
    view.setFloat32(116, 0, true);        // offset
    new Float32Array(file, HEADER).set(array);
    return file;
  }

  try {
    const source = document.createElement("script");
    source.textContent = new TextDecoder().decode(await unzip($("niivue-source").textContent));
    document.head.append(source);
    const { Niivue, NVImage, SLICE_TYPE, MULTIPLANAR_TYPE } = window.niivue;

    const data = JSON.parse($("report-data").textContent);
    const files = {};
    for (const [name, base64] of Object.entries(data.volumes)) files[name] = await unzip(base64);
    const baselines = Object.keys(files).filter((name) => name !== "GT" && name !== "recon");
    const hasError = "GT" in files && "recon" in files;
    if (hasError) {
      const truth = values(files.GT);
      files.error = floatFile(files.GT, values(files.recon).map((value, index) => value - truth[index]));
    }
    const fill = (select, names, chosen) => {
      select.replaceChildren(...names.map((name, index) => new Option(data.names[name] || name, index, false, name === chosen)));
    };
    fill($("planes"), ["all", "axial", "coronal", "sagittal"], "all");
    fill($("window"), data.presets.map((preset) => preset.name), data.first);
    fill($("baseline"), baselines, data.baseline);
    $("baseline-label").hidden = baselines.length < 2;
    $("blink-label").hidden = !hasError;

    // One panel each.
    const roles = [["truth", "GT"], ["baseline", data.baseline], ["reconstruction", "recon"], ["error", "error"]]
      .filter(([, name]) => name in files);
    $("viewer").hidden = false;
    const panels = [];
    for (const [role, name] of roles) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      const frame = document.createElement("div"), canvas = document.createElement("canvas");
      frame.className = "frame";
      canvas.tabIndex = 0;
      frame.append(canvas);
      figure.append(caption, frame);
      $("panels").append(figure);
      const nv = new Niivue({
        logLevel: "error", isRadiologicalConvention: true, multiplanarLayout: MULTIPLANAR_TYPE.COLUMN,
        multiplanarShowRender: 0, multiplanarPadPixels: 4, crosshairWidth: 0.25, crosshairWidthUnit: "percent",
        crosshairColor: [1, 0.8, 0.2, 0.45], crosshairGap: 12, dragAndDropEnabled: false, isCornerOrientationText: true,
        fontColor: [0.75, 0.75, 0.75, 1], fontMinPx: 11, isNearestInterpolation: true, sagittalNoseLeft: true,
      });
      nv.drawScene = () => {};      // until all is set
      panels.push({ role, name, nv, canvas, caption, frame });
    }
    const [nx, ny, nz] = data.extent;            // mm along x, y, z
    function layout() {
      const plane = Number($("planes").value);
      const wide = Math.max(nx, ny);
      const ratio = [(ny + 2 * nz) / wide, ny / nx, nz / nx, nz / ny][plane];
      for (const { frame } of panels) {
        frame.style.height = `${Math.round(Math.max(120, Math.min(frame.clientWidth * ratio + 8, 1200)))}px`;
      }
      return [SLICE_TYPE.MULTIPLANAR, SLICE_TYPE.AXIAL, SLICE_TYPE.CORONAL, SLICE_TYPE.SAGITTAL][plane];
    }
    layout();
    // As NiiVue asks for it, which then gets the same context.
    if (panels.some(({ canvas }) => !canvas.getContext("webgl2", { alpha: true, antialias: false }))) return fail(NEEDED);
    await Promise.all(panels.map(({ nv, canvas }) => nv.attachToCanvas(canvas, false)));
    for (const panel of panels) {
      panel.nv.addColormap("difference", { R: [33, 247, 178], G: [102, 247, 24], B: [172, 247, 43],
        A: [255, 255, 255], I: [0, 128, 255] });
      await show(panel, panel.name);
    }

    async function show(panel, name) {
      panel.name = name;
      const colours = panel.role === "error" ? "difference" : "gray";
      panel.images ??= {};
      const image = panel.images[name] ??= await NVImage.new(files[name], `${name}.nii`, colours, 1, null, ...limits(panel));
      [image.cal_min, image.cal_max] = limits(panel);
      while (panel.nv.volumes.length) panel.nv.removeVolume(panel.nv.volumes[0]);
      panel.nv.addVolume(image);
    }

    // Windows: the error's is a quarter of the images', about 0.
    function limits(panel) {
      const { low, high } = data.presets[Number($("window").value)];
      return panel.role === "error" ? [-(high - low) / 4, (high - low) / 4] : [low, high];
    }
    const text = (value) => `${value < 0 ? "\u2212" : ""}${Math.abs(Number(value.toPrecision(4)))}`;
    function label() {
      for (const panel of panels) {
        const [low, high] = limits(panel), unit = data.unit ? ` ${data.unit}` : "";
        const detail = document.createElement("span");
        const shown = data.names[panel.name];
        const names = { baseline: `baseline: ${shown}`, error: "error: reconstruction \u2212 truth" };
        const title = document.createElement("strong");
        title.textContent = names[panel.role] || shown;
        detail.textContent = `${text(low)} to ${text(high)}${unit} `;
        panel.caption.replaceChildren(title, document.createElement("br"), detail);
        if (panel.role === "error") detail.append(Object.assign(document.createElement("i"), { className: "bar" }));
        panel.canvas.setAttribute("role", "img");
        panel.canvas.setAttribute("aria-label", `${title.textContent}, ${detail.textContent}`);
      }
    }
    function rewindow() {
      for (const panel of panels) {
        [panel.nv.volumes[0].cal_min, panel.nv.volumes[0].cal_max] = limits(panel);
        panel.nv.updateGLVolume();
      }
      label();
    }

    // One place for all panels and sliders.
    let place = [0.5, 0.5, 0.5], busy = false;
    const sliders = ["sagittal", "coronal", "axial"].map((plane, axis) => {
      const tag = document.createElement("label"), slider = document.createElement("input");
      Object.assign(slider, { type: "range", min: 0, max: data.counts[axis] - 1, step: 1 });
      const count = document.createElement("output");
      tag.append(plane, slider, count);
      slider.addEventListener("input", () => {
        const to = [...place];
        to[axis] = (Number(slider.value) + 0.5) / data.counts[axis];
        goTo(to);
      });
      return { tag, slider, count };
    });
    $("sliders").append(...[2, 1, 0].map((axis) => sliders[axis].tag));
    function goTo(position) {
      if (busy) return;
      busy = true;
      place = Array.from(position);
      for (const { nv } of panels) {
        nv.scene.crosshairPos = [...place];
        nv.drawScene();
      }
      sliders.forEach(({ slider, count }, axis) => {
        const index = Math.min(data.counts[axis] - 1, Math.floor(place[axis] * data.counts[axis]));
        slider.value = index;
        count.textContent = `${index + 1} / ${data.counts[axis]}`;
      });
      busy = false;
    }
    for (const { nv, canvas } of panels) {
      nv.onLocationChange = () => goTo(nv.scene.crosshairPos);
      canvas.addEventListener("keydown", (event) => {
        const step = { PageUp: 1, PageDown: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const axis = { 2: 1, 3: 0 }[$("planes").value] ?? 2, to = [...place];
        to[axis] = Math.min(1, Math.max(0, to[axis] + step / data.counts[axis]));
        goTo(to);
      });
    }

    $("planes").addEventListener("change", () => {
      const slices = layout();
      for (const { nv } of panels) nv.setSliceType(slices);
    });
    $("window").addEventListener("change", rewindow);
    $("baseline").addEventListener("change", async () => {
      const here = place;
      await show(panels.find(({ role }) => role === "baseline"), baselines[Number($("baseline").value)]);
      rewindow();
      goTo(here);
    });
    let blinking = 0;
    $("blink").addEventListener("change", async () => {
      const panel = panels.find(({ role }) => role === "reconstruction");
      const turn = async (name) => {
        const here = place;
        await show(panel, name);
        label();
        goTo(here);
      };
      clearInterval(blinking);
      if ($("blink").checked) blinking = setInterval(() => turn(panel.name === "recon" ? "GT" : "recon"), 700);
      else await turn("recon");
    });
    window.addEventListener("resize", layout);
    for (const { nv } of panels) nv.setSliceType(layout());
    label();
    for (const { nv } of panels) delete nv.drawScene;
    goTo([0, 1, 2].map((axis) => (Math.floor(data.counts[axis] / 2) + 0.5) / data.counts[axis]));
    window.report = { panels, problems, place: () => place };
    $("viewer-message").textContent = "";
    state.openedMs = Math.round(performance.now());     // since the page was asked for
    state.viewer = problems.length ? `failed: ${problems[0]}` : "ready";
  } catch (error) {
    fail(`The viewer did not start: ${error.message}`);
    throw error;
  }
})();
