// The card of the model that is served.

import { count, element } from "./words.js";

const DEVICES = { cpu: "the CPU" };

export function showModel(list, model) {
  const rows = {
    Name: `${model.name}, version ${model.version}`,
    Network: model.architecture,
    "Right answers": `${(100 * model.accuracy).toFixed(2)} % of the test images`,
    Engine: `${model.engine} on ${DEVICES[model.device] ?? model.device}, ${model.precision}`,
    "Largest batch": `${count(model.max_batch_size)} images`,
    "Largest request": `${count(model.max_images_per_request)} images`,
    "SHA-256": model.sha256,
  };
  if (model.last_load_error) rows["Not taken into service"] = model.last_load_error;
  list.replaceChildren(
    ...Object.entries(rows).map(([name, value]) =>
      element("div", { className: value === model.sha256 ? "digest" : "" }, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}
