"use strict";

// All signals of an excerpt play in sync; gains determine which of them are audible. Switching needs no seeking, has no
// delay and keeps the position to the sample.
const FADE_SECONDS = 0.004;
const AHEAD_SECONDS = 0.03;
const MIN_LOOP_SECONDS = 0.1;
let sharedContext = null;
let playing = null;

class Player {
  constructor(element) {
    this.element = element;
    this.seconds = Number(element.dataset.seconds);
    this.start = Number(element.dataset.start);
    this.frameScores = JSON.parse(element.querySelector(".readings").textContent);
    this.audible = new Set(["mixture"]);
    this.solo = true;
    this.loop = { on: false, from: 0, to: this.seconds };
    this.offset = 0;
    this.nodes = null;
    this.buffers = null;
    this.findElements();
    this.addListeners();
    this.showAudible();
    this.showPosition();
  }

  findElements() {
    const one = (name) => this.element.querySelector(`.${name}`);
    this.button = one("play");
    this.slider = one("position");
    this.target = one("target");
    this.buttons = [...this.element.querySelectorAll(".hear")];
    this.button.disabled = false;
  }

  addListeners() {
    const on = (name, action) => this.element.querySelector(`.${name}`).addEventListener("click", action);
    on("play", () => this.toggle());
    on("loop", () => this.setLoop({ on: !this.loop.on }));
    on("from", () => this.setLoop({ on: true, from: this.position() }));
    on("to", () => this.setLoop({ on: true, to: this.position() }));
    on("solo", () => this.setSolo(!this.solo));
    for (const button of this.buttons) button.addEventListener("click", () => this.choose(button.dataset.signal));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.target?.addEventListener("change", () => this.showTarget());
    for (const picture of this.element.querySelectorAll(".picture")) this.addPictureListeners(picture);
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  // A click seeks; a drag loops the selected section.
  addPictureListeners(picture) {
    let pressed = null;
    const seconds = (event) => {
      const box = picture.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * this.seconds;
    };
    picture.addEventListener("pointerdown", (event) => {
      pressed = { x: event.clientX, at: seconds(event) };
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointerup", (event) => {
      if (pressed === null) return;
      const [first, last] = [pressed.at, seconds(event)].sort((a, b) => a - b);
      const dragged = Math.abs(event.clientX - pressed.x) > 6;
      pressed = null;
      if (!dragged) { this.seek(last); return; }
      this.setLoop({ on: true, from: first, to: last });
      this.seek(first);
    });
    picture.addEventListener("pointercancel", () => { pressed = null; });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const shown = this.target?.value ?? this.buttons.at(-1).dataset.signal.replace(/\.estimate$/, "");
    const signals = { 1: "mixture", 2: `${shown}.reference`, 3: `${shown}.estimate` };
    const key = event.key.toLowerCase();
    if (key in signals) this.choose(signals[key]);
    else if (key === "p") this.toggle();
    else if (key === "l") this.setLoop({ on: !this.loop.on });
    else return;
    event.preventDefault();
  }

  // Current position in seconds from the start of the excerpt.
  position() {
    if (!this.nodes) return this.offset;
    return this.positionAt(sharedContext.currentTime);
  }

  positionAt(time) {
    const { on, from, to } = this.loop;
    const at = this.offset + Math.max(0, time - this.startTime);
    if (!on) return Math.min(at, this.seconds);
    return at < to ? at : from + ((at - from) % (to - from));
  }

  async toggle() {
    if (this.nodes) { this.stop(this.position()); return; }
    playing?.stop(playing.position());
    playing = this;
    sharedContext ??= new AudioContext();
    this.button.disabled = true;
    try {
      await sharedContext.resume();
      this.buffers ??= await this.decode();
      if (playing === this) this.play(this.offset);
    } catch (error) {
      this.element.querySelector(".reading").textContent = `This browser cannot play the audio: ${error.message}`;
    }
    this.button.disabled = false;
  }

  async decode() {
    const sounds = Object.entries(JSON.parse(this.element.querySelector(".sounds").textContent));
    const decodeOne = async ([name, text]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      return [name, await sharedContext.decodeAudioData(bytes.buffer)];
    };
    return Object.fromEntries(await Promise.all(sounds.map(decodeOne)));
  }

  // Start all signals at the same time, and stop those that are playing at that time.
  play(offset) {
    const when = sharedContext.currentTime + AHEAD_SECONDS;
    this.stopSources(when);
    const { on, from, to } = this.loop;
    this.offset = on && offset >= to ? from : offset;
    this.startTime = when;
    this.nodes = new Map();
    for (const [name, buffer] of Object.entries(this.buffers)) {
      const source = new AudioBufferSourceNode(sharedContext, { buffer, loop: on, loopStart: from, loopEnd: to });
      const gain = new GainNode(sharedContext, { gain: this.audible.has(name) ? 1 : 0 });
      source.connect(gain).connect(sharedContext.destination);
      source.start(when, this.offset);
      this.nodes.set(name, { source, gain });
    }
    this.nodes.get("mixture").source.onended = () => this.stop(0);
    this.button.textContent = "Pause";
    this.draw();
  }

  stop(offset) {
    const now = sharedContext.currentTime;
    for (const { gain } of this.nodes?.values() ?? []) gain.gain.setTargetAtTime(0, now, FADE_SECONDS);
    this.stopSources(now + 5 * FADE_SECONDS);
    this.offset = offset;
    this.nodes = null;
    if (playing === this) playing = null;
    this.button.textContent = "Play";
    this.showPosition();
  }

  stopSources(when) {
    for (const { source } of this.nodes?.values() ?? []) {
      source.onended = null;
      source.stop(when);
    }
  }

  seek(seconds) {
    if (this.nodes) this.play(seconds);
    else this.offset = seconds;
    this.showPosition();
  }

  setLoop(changes) {
    const at = this.nodes ? this.positionAt(sharedContext.currentTime + AHEAD_SECONDS) : this.offset;
    Object.assign(this.loop, changes);
    if (this.loop.from >= this.loop.to) Object.assign(this.loop, "to" in changes ? { from: 0 } : { to: this.seconds });
    this.loop.from = Math.max(0, Math.min(this.loop.from, this.seconds - MIN_LOOP_SECONDS));
    this.loop.to = Math.max(this.loop.to, this.loop.from + MIN_LOOP_SECONDS);
    this.element.classList.toggle("looping", this.loop.on);
    this.element.style.setProperty("--from", this.loop.from / this.seconds);
    this.element.style.setProperty("--to", this.loop.to / this.seconds);
    this.element.querySelector(".loop").setAttribute("aria-pressed", this.loop.on);
    if (this.nodes) this.play(at);
  }

  setSolo(solo) {
    this.solo = solo;
    this.element.querySelector(".solo").setAttribute("aria-pressed", solo);
    if (solo && this.audible.size !== 1) this.choose([...this.audible].at(-1) ?? "mixture");
  }

  choose(signal) {
    if (!this.buttons.some((button) => button.dataset.signal === signal)) return;
    if (this.solo) this.audible = new Set([signal]);
    else if (!this.audible.delete(signal)) this.audible.add(signal);
    const [shown] = signal.split(/\.(?:reference|estimate)$/);
    if (this.target && signal !== "mixture" && this.target.value !== shown) {
      this.target.value = shown;
      this.showTarget();
    }
    this.showAudible();
  }

  // Switch the audible reference or estimate to the selected target.
  showTarget() {
    for (const part of this.element.querySelectorAll("[data-target]")) part.hidden = part.dataset.target !== this.target.value;
    if (!this.solo) return;
    const kind = [...this.audible][0].match(/\.(reference|estimate)$/);
    if (kind) this.audible = new Set([`${this.target.value}${kind[0]}`]);
    this.showAudible();
  }

  showAudible() {
    for (const button of this.buttons) button.setAttribute("aria-pressed", this.audible.has(button.dataset.signal));
    for (const [name, { gain }] of this.nodes ?? []) {
      gain.gain.setTargetAtTime(this.audible.has(name) ? 1 : 0, sharedContext.currentTime, FADE_SECONDS);
    }
    this.showPosition();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    if (!this.nodes) return;
    this.showPosition();
    this.frame = requestAnimationFrame(() => this.draw());
  }

  showPosition() {
    const at = this.position();
    const whole = Math.floor(this.start + at);
    const text = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
    this.element.style.setProperty("--at", at / this.seconds);
    this.slider.value = at;
    this.slider.setAttribute("aria-valuetext", text);
    this.element.querySelector(".time").textContent = text;
    this.element.querySelector(".reading").textContent = this.scoreText(at);
  }

  scoreText(at) {
    const target = this.target?.value ?? Object.keys(this.frameScores.scores)[0];
    const scores = Object.entries(this.frameScores.scores[target] ?? {});
    const frame = Math.floor(at / this.frameScores.frame);
    const shown = ([name, values]) => `${name} ${values[frame] === null || values[frame] === undefined ? "–" : values[frame].toFixed(1)}`;
    return scores.length ? `Estimate of ${target} in this frame in dB: ${scores.map(shown).join(", ")}` : "";
  }
}

for (const element of document.querySelectorAll(".player")) element.player = new Player(element);
