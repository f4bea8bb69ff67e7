/** The form of a model, built from its JSON Schema: one field for each parameter. Texts are set as text, never as HTML. */
const SIZE = /^(\d+)x(\d+)/;
const FEW = 1000; // so many steps fit on a slider

/** Make an element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The fields of one model below `place`. `changed` is called whenever a value may have changed. */
export class Form {
  constructor(place, schema, changed) {
    this.fields = {};
    place.replaceChildren();
    const optional = element("div", { className: "grid" });
    for (const [key, property] of Object.entries(schema.properties)) {
      const field = makeField(key, property, changed);
      field.required = schema.required.includes(key);
      this.fields[key] = field;
      (field.required ? place : optional).append(field.box);
    }
    const images = Object.values(this.fields).filter((field) => field.isImage);
    if (images.length) {
      const row = element("div", { className: "images" });
      images[0].box.before(row);
      // Time goes from left to right: the start image first.
      row.append(...images.map((field) => field.box));
    }
    place.append(optional);
    place.addEventListener("change", () => this.showShape());
    this.showShape();
  }

  /** Return the values as they are sent; an image is a text or a File. Integers are texts of digits. */
  values() {
    const found = {};
    for (const [key, field] of Object.entries(this.fields)) if (field.get() !== "") found[key] = field.get();
    return found;
  }

  /** Return what the user gave for required fields, prompt and images: it serves other models too. */
  given() {
    const isGiven = ([key, value]) => this.fields[key].required && value !== this.fields[key].preset;
    return Object.fromEntries(Object.entries(this.values()).filter(isGiven));
  }

  /** Put values into the fields; those that are not given stay. */
  fill(values) {
    for (const [key, value] of Object.entries(values)) this.fields[key]?.set(value);
    this.showShape();
  }

  /** Return what is wrong before anything is sent, key -> text: required fields without a value, and what is no number. */
  problems() {
    const found = {};
    for (const [key, { get, problem, required, title }] of Object.entries(this.fields)) {
      if (get() !== "") continue;
      if (problem) found[key] = problem();
      else if (required) found[key] = `${title} is missing.`;
    }
    return found;
  }

  /** Show an error below each field of `errors`, key -> text, and none below the others; go to the first. Return the rest. */
  showErrors(errors) {
    for (const [key, field] of Object.entries(this.fields)) {
      field.error.textContent = errors[key] ?? "";
      field.control.setAttribute("aria-invalid", String(key in errors));
    }
    Object.entries(this.fields).find(([key]) => key in errors)?.[1].control.focus();
    return Object.keys(errors).filter((key) => !(key in this.fields)).map((key) => errors[key]);
  }

  /** Show images as they will be cropped: in the shape of the chosen size. */
  showShape() {
    const size = Object.values(this.fields).map((field) => SIZE.exec(field.get())).find(Boolean);
    if (!size) return;
    const ratio = `${size[1]} / ${size[2]}`;
    for (const field of Object.values(this.fields)) if (field.isImage) field.picture.style.aspectRatio = ratio;
  }
}

/** Whether the text `value` is to be sent without quotes: as a JSON number, or true or false. */
export const isBare = (schema, key, value) => {
  const type = schema.properties[key]?.type;
  return type === "boolean" || (["integer", "number"].includes(type) && /^-?(0|[1-9]\d*)(\.\d+)?$/.test(value));
};

/** Write values as JSON. Integers that are texts of digits stay exact, whatever their size. */
export function toJson(values, schema) {
  const parts = Object.entries(values).map(([key, value]) => {
    return `${JSON.stringify(key)}: ${isBare(schema, key, value) ? value : JSON.stringify(value)}`;
  });
  return `{${parts.join(", ")}}`;
}

function makeField(key, property, changed) {
  const id = `field-${key}`;
  const error = element("p", { className: "error", id: `${id}-error` });
  const help = element("span", { className: "help", id: `${id}-help`, textContent: property.description ?? "" });
  const make =
    property.format === "image-reference" ? image
    : property.enum || property.type === "boolean" ? choice
    : property.type === "string" ? text
    : property.maximum - property.minimum <= FEW ? slider
    : number;
  const field = make(id, property, changed);
  field.error = error;
  field.title = property.title;
  field.control.setAttribute("aria-describedby", `${help.id} ${error.id}`);
  const label = element("label", { htmlFor: field.control.id, textContent: property.title });
  const head = element("div", { className: "label" }, label, element("code", { textContent: key, title: key }));
  field.box = element("div", { className: field.isImage ? "field image-field" : "field" }, head, ...field.parts);
  help.hidden = field.isImage || !help.textContent; // of an image, the field itself says it
  field.box.append(help, error);
  field.preset = field.isImage ? "" : String(property.default ?? "");
  if (!field.isImage) field.set(field.preset);
  return field;
}

function plain(control, changed) {
  control.addEventListener("input", changed);
  control.addEventListener("change", changed);
  return {
    control,
    parts: [control],
    get: () => control.value,
    set: (value) => {
      control.value = value;
      changed();
    },
  };
}

function text(id, _, changed) {
  return plain(element("textarea", { id, rows: 3 }), changed); // with maxLength, a browser cuts what is pasted
}

function choice(id, property, changed) {
  const options = (property.enum ?? [true, false]).map((value) => element("option", { value, textContent: value }));
  return plain(element("select", { id }, ...options), changed);
}

function number(id, property, changed) {
  const control = element("input", { id, type: "text", inputMode: "numeric", autocomplete: "off" });
  const field = plain(control, changed);
  field.get = () => control.value.trim();
  field.problem = () => needsNumber(`${property.title} is empty.`, property);
  const dice = element("button", { type: "button", className: "quiet", textContent: "Random" });
  dice.setAttribute("aria-label", `Random ${property.title}`);
  dice.addEventListener("click", () => field.set(String(crypto.getRandomValues(new Uint32Array(1))[0])));
  field.parts = [element("div", { className: "line" }, control, dice)];
  return field;
}

/** Say what a number field needs, whose value cannot be sent. */
const needsNumber = (fault, { minimum, maximum }) =>
  `${fault} Give a number${minimum === undefined || maximum === undefined ? "" : ` from ${minimum} to ${maximum}`}.`;

function slider(id, property, changed) {
  const step = property.type === "integer" ? 1 : 0.1;
  const limits = { min: property.minimum, max: property.maximum, step };
  const range = element("input", { type: "range", ...limits });
  const control = element("input", { id, type: "number", ...limits, step: step === 1 ? 1 : "any" });
  range.setAttribute("aria-label", `${property.title}, slider`);
  const field = plain(control, changed);
  range.addEventListener("input", () => field.set(range.value));
  control.addEventListener("input", () => (range.value = control.value));
  field.get = () => (Number.isNaN(control.valueAsNumber) ? "" : String(control.valueAsNumber));
  // The browser gives no value for what it cannot read as a number, and the default would run.
  field.problem = () => needsNumber(`${property.title} is ${control.validity.badInput ? "not a number" : "empty"}.`, property);
  field.set = (value) => {
    control.value = range.value = value;
    changed();
  };
  field.parts = [element("div", { className: "line" }, range, control)];
  return field;
}

/** An image: a file that is dropped or chosen, or the text that names one. */
function image(id, property, changed) {
  let file = null;
  const control = element("input", { id, type: "file", accept: "image/png,image/jpeg,image/webp", className: "file" });
  // The browser turns a photograph as its EXIF orientation says, and so does ComfyUI; the rest is cropped there as here.
  const picture = element("img", { alt: "", hidden: true });
  const hint = element("span", { className: "hint" }, element("b", { textContent: "Drop an image" }), " or choose one");
  const zone = element("label", { className: "zone", htmlFor: id }, picture, hint);
  const name = element("input", { type: "text", autocomplete: "off", spellcheck: false, placeholder: "URL or name" });
  name.title = "The address of an image, or the name of one in ComfyUI's input folder";
  name.setAttribute("aria-label", `${property.title}: URL or name`);
  const field = { control, isImage: true, picture, parts: [control, zone, name] };

  function take(chosen) {
    file = chosen;
    if (picture.src) URL.revokeObjectURL(picture.src);
    picture.hidden = hint.hidden = false;
    if (file) {
      picture.src = URL.createObjectURL(file);
      picture.alt = `${property.title}: ${file.name}`;
      name.value = file.name;
      hint.hidden = true;
    } else {
      picture.removeAttribute("src");
      picture.hidden = true;
      control.value = "";
    }
    changed();
  }
  picture.addEventListener("error", () => {
    if (!picture.hasAttribute("src")) return;
    picture.hidden = true;
    hint.hidden = false;
  });
  control.addEventListener("change", () => control.files[0] && take(control.files[0]));
  name.addEventListener("input", () => (file ? take(null) : changed()));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  field.get = () => file ?? name.value.trim();
  field.set = (value) => {
    if (value instanceof File) return take(value);
    take(null);
    name.value = value;
    changed();
  };
  return field;
}
