(function () {
  "use strict";
  const root = document.documentElement;
  const source = document.getElementById("figures");
  const given = source ? JSON.parse(source.textContent) : { figures: [], stages: [] };
  const figures = given.figures;
  const steps = given.stages.reduce(function (sum, stage) { return sum + stage.steps; }, 0);
  const config = { displayModeBar: false, showTips: false, doubleClick: false };
  const coarse = matchMedia("(pointer: coarse)").matches;  // dragging on a phone scrolls the page
  let zoom = null;
  let busy = false;

  // "@name" in a figure is the style sheet's --name, so that plots follow light, dark and paper.
  function styled(value, styles) {
    if (typeof value === "string") {
      return value[0] === "@" ? styles.getPropertyValue("--" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map(function (item) { return styled(item, styles); });
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(function (pair) {
        return [pair[0], styled(pair[1], styles)];
      }));
    }
    return value;
  }

  function draw() {
    const styles = getComputedStyle(root);
    busy = true;
    const drawn = figures.map(function (figure) {
      const box = document.getElementById("plot-" + figure.id);
      const layout = styled(figure.layout, styles);
      layout.width = box.clientWidth;
      layout.dragmode = coarse ? false : "zoom";
      if (figure.linked && zoom) {
        layout.xaxis.range = zoom.slice();
      }
      layout.annotations.forEach(function (label, place) {
        const stage = given.stages[place];  // its name where it fits, at about 7 px a letter
        if ((stage.steps / steps) * (box.clientWidth - 62) > 7 * stage.label.length + 6) {
          label.text = stage.label;
        }
      });
      return Plotly.react(box, styled(figure.data, styles), layout, config).then(function () {
        if (figure.linked && !box.dataset.linked) {
          box.dataset.linked = "yes";
          box.on("plotly_relayout", follow);
          box.on("plotly_doubleclick", function () { zoom = null; draw(); });
        }
      });
    });
    return Promise.all(drawn).then(function () { busy = false; });
  }

  // Zooming one plot over steps zooms them all.
  function follow(change) {
    if (!busy && "xaxis.range[0]" in change) {
      zoom = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      draw();
    }
  }

  // Paper is light, as wide as paper, and has nothing folded away.
  let folded = [];
  function print(on) {
    if (on === root.classList.contains("printing")) {
      return;
    }
    if (on) {
      folded = Array.from(document.querySelectorAll("details:not([open])"));
    }
    folded.forEach(function (details) { details.open = on; });
    root.classList.toggle("printing", on);
    draw();
  }

  let waiting = 0;
  function later() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  }

  addEventListener("beforeprint", function () { print(true); });
  addEventListener("afterprint", function () { print(false); });
  matchMedia("print").addEventListener("change", function (event) { print(event.matches); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  addEventListener("resize", later);
  draw().then(function () { root.dataset.drawn = "yes"; });
})();
