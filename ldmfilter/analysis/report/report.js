// The states in three dimensions, turning; without WebGL the still picture stays where it is.
(() => {
  const box = document.getElementById("space");
  if (!box) return;
  const data = JSON.parse(document.getElementById("space-data").textContent);
  const live = box.querySelector(".live");
  const scale = box.querySelector(".scale");
  const hint = box.querySelector(".hint");

  const webgl = () => {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch {
      return false;
    }
  };
  if (!window.Plotly || !webgl()) {
    hint.textContent = "This browser draws no WebGL, so the picture stands still.";
    return;
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (number) => ({
    title: { text: data.axes[number], font: { color: token("--muted"), size: 12 } },
    showticklabels: false, showspikes: false, zeroline: false, showbackground: false,
    gridcolor: token("--line"), linecolor: token("--line"),
  });
  const away = live.clientWidth < 500 ? 1.45 : 1.15;
  const layout = () => ({
    margin: { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    font: { family: token("--sans") },
    showlegend: false,
    scene: {
      xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), dragmode: "turntable", aspectmode: "data",
      camera: { eye: { x: 0.9 * away, y: 0.9 * away, z: 1.2 * away } },
    },
    uirevision: "kept",
  });
  const trace = (choice) => ({
    type: "scatter3d", mode: "markers", hoverinfo: "text", text: data.time.map((t) => `${t} s`),
    x: data.x, y: data.y, z: data.z,
    marker: {
      size: 2.6, opacity: 0.85, line: { width: 0 }, colorscale: choice.colorscale, cmin: choice.low, cmax: choice.high,
      // Bins without a value of the behaviour are left out of the picture.
      color: choice.values.map((value) => (value === null ? NaN : value)),
    },
  });

  // The words and the bar under the picture say what the colours mean.
  const describe = (choice) => {
    scale.replaceChildren();
    const add = (tag, text, style) => {
      const element = document.createElement(tag);
      element.textContent = text;
      Object.assign(element.style, style || {});
      scale.append(element);
      return element;
    };
    const colours = choice.colorscale.map(([, colour]) => colour);
    for (const [number, name] of choice.classes.entries()) {
      const word = add("span", "");
      const dot = document.createElement("b");
      dot.style.background = colours[number];
      word.append(dot, `${choice.label} ${name}`);
    }
    if (!choice.classes.length) {
      add("span", `${choice.label} ${choice.low_label}`);
      add("i", "", { background: `linear-gradient(90deg, ${colours.join(", ")})` });
      add("span", choice.high_label);
    }
  };

  let chosen = data.choices[0];
  box.classList.add("turns");
  window.Plotly.newPlot(live, [trace(chosen)], layout(), { displayModeBar: false, responsive: true, scrollZoom: false });
  // The box has a name that says what is seen; its canvas, and what plotly measures texts with, say nothing more.
  for (const one of [...live.children, document.getElementById("js-plotly-tester")]) {
    one?.setAttribute("aria-hidden", "true");
  }
  hint.textContent = "Drag to turn, or use the arrow keys.";

  for (const input of box.querySelectorAll("input")) {
    input.addEventListener("change", () => {
      chosen = data.choices[Number(input.value)];
      window.Plotly.react(live, [trace(chosen)], keep(layout()));
      describe(chosen);
    });
  }
  // A new layout keeps the way the person has turned the picture.
  const camera = () => live._fullLayout.scene._scene.getCamera();
  const keep = (next) => {
    next.scene.camera = camera();
    return next;
  };
  dark.addEventListener("change", () => window.Plotly.react(live, [trace(chosen)], keep(layout())));

  live.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!turn) return;
    event.preventDefault();
    const { eye, center, up } = camera();
    const flat = Math.hypot(eye.x, eye.y);
    const far = Math.hypot(flat, eye.z);
    const around = Math.atan2(eye.y, eye.x) + turn[0] * 0.12;
    const above = Math.max(-1.5, Math.min(1.5, Math.atan2(eye.z, flat) + turn[1] * 0.12));
    window.Plotly.relayout(live, {
      "scene.camera": {
        eye: {
          x: far * Math.cos(above) * Math.cos(around),
          y: far * Math.cos(above) * Math.sin(around),
          z: far * Math.sin(above),
        },
        center, up,
      },
    });
  });
})();

// On paper nothing is folded away.
(() => {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
