"use strict";

// Every signal of an excerpt plays all the time, started on one clock; what is heard is a matter of gains. So a change
// needs no seeking, comes at once and keeps the place to the sample.
const FADE_SECONDS = 0.004;
const AHEAD_SECONDS = 0.03;
const LOOP_SECONDS = 0.1; // the shortest
let sharedContext = null;
let playing = null;

class Player {
  constructor(element) {
    this.element = element;
    this.seconds = Number(element.dataset.seconds);
    this.start = Number(element.dataset.start);
    this.readings = JSON.parse(element.querySelector(".readings").textContent);
    this.heard = new Set(["mixture"]);
    this.solo = true;
    this.loop = { on: false, from: 0, to: this.seconds };
    this.offset = 0;
    this.nodes = null;
    this.buffers = null;
    this.find();
    this.listen();
    this.showHeard();
    this.showPlace();
  }

  find() {
    const one = (name) => this.element.querySelector(`.${name}`);
    this.button = one("play");
    this.slider = one("position");
    this.target = one("target");
    this.hear = [...this.element.querySelectorAll(".hear")];
    this.button.disabled = false;
  }

  listen() {
    const on = (name, action) => this.element.querySelector(`.${name}`).addEventListener("click", action);
    on("play", () => this.toggle());
    on("loop", () => this.setLoop({ on: !this.loop.on }));
    on("from", () => this.setLoop({ on: true, from: this.position() }));
    on("to", () => this.setLoop({ on: true, to: this.position() }));
    on("solo", () => this.setSolo(!this.solo));
    for (const button of this.hear) button.addEventListener("click", () => this.choose(button.dataset.signal));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.target?.addEventListener("change", () => this.showTarget());
    for (const picture of this.element.querySelectorAll(".picture")) this.listenToPicture(picture);
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  // A click seeks; a drag loops what it spans.
  listenToPicture(picture) {
    let began = null;
    const seconds = (event) => {
      const box = picture.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * this.seconds;
    };
    picture.addEventListener("pointerdown", (event) => {
      began = { x: event.clientX, at: seconds(event) };
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointerup", (event) => {
      if (began === null) return;
      const [first, last] = [began.at, seconds(event)].sort((a, b) => a - b);
      const dragged = Math.abs(event.clientX - began.x) > 6;
      began = null;
      if (!dragged) { this.seek(last); return; }
      this.setLoop({ on: true, from: first, to: last });
      this.seek(first);
    });
    picture.addEventListener("pointercancel", () => { began = null; });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const shown = this.target?.value ?? this.hear.at(-1).dataset.signal.replace(/\.estimate$/, "");
    const signals = { 1: "mixture", 2: `${shown}.reference`, 3: `${shown}.estimate` };
    const key = event.key.toLowerCase();
    if (key in signals) this.choose(signals[key]);
    else if (key === "p") this.toggle();
    else if (key === "l") this.setLoop({ on: !this.loop.on });
    else return;
    event.preventDefault();
  }

  // Seconds from the start of the excerpt, as heard now.
  position() {
    if (!this.nodes) return this.offset;
    return this.positionAt(sharedContext.currentTime);
  }

  positionAt(moment) {
    const { on, from, to } = this.loop;
    const at = this.offset + Math.max(0, moment - this.began);
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
      this.buffers ??= await this.decoded();
      if (playing === this) this.play(this.offset);
    } catch (problem) {
      this.element.querySelector(".reading").textContent = `This browser cannot play the sounds: ${problem.message}`;
    }
    this.button.disabled = false;
  }

  async decoded() {
    const sounds = Object.entries(JSON.parse(this.element.querySelector(".sounds").textContent));
    const decode = async ([name, text]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      return [name, await sharedContext.decodeAudioData(bytes.buffer)];
    };
    return Object.fromEntries(await Promise.all(sounds.map(decode)));
  }

  // Start all signals at one moment, and end those that play at that moment.
  play(offset) {
    const when = sharedContext.currentTime + AHEAD_SECONDS;
    this.drop(when);
    const { on, from, to } = this.loop;
    this.offset = on && offset >= to ? from : offset;
    this.began = when;
    this.nodes = new Map();
    for (const [name, buffer] of Object.entries(this.buffers)) {
      const source = new AudioBufferSourceNode(sharedContext, { buffer, loop: on, loopStart: from, loopEnd: to });
      const gain = new GainNode(sharedContext, { gain: this.heard.has(name) ? 1 : 0 });
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
    this.drop(now + 5 * FADE_SECONDS);
    this.offset = offset;
    this.nodes = null;
    if (playing === this) playing = null;
    this.button.textContent = "Play";
    this.showPlace();
  }

  drop(when) {
    for (const { source } of this.nodes?.values() ?? []) {
      source.onended = null;
      source.stop(when);
    }
  }

  seek(seconds) {
    if (this.nodes) this.play(seconds);
    else this.offset = seconds;
    this.showPlace();
  }

  setLoop(changes) {
    const at = this.nodes ? this.positionAt(sharedContext.currentTime + AHEAD_SECONDS) : this.offset;
    Object.assign(this.loop, changes);
    if (this.loop.from >= this.loop.to) Object.assign(this.loop, "to" in changes ? { from: 0 } : { to: this.seconds });
    this.loop.from = Math.max(0, Math.min(this.loop.from, this.seconds - LOOP_SECONDS));
    this.loop.to = Math.max(this.loop.to, this.loop.from + LOOP_SECONDS);
    this.element.classList.toggle("looping", this.loop.on);
    this.element.style.setProperty("--from", this.loop.from / this.seconds);
    this.element.style.setProperty("--to", this.loop.to / this.seconds);
    this.element.querySelector(".loop").setAttribute("aria-pressed", this.loop.on);
    if (this.nodes) this.play(at);
  }

  setSolo(solo) {
    this.solo = solo;
    this.element.querySelector(".solo").setAttribute("aria-pressed", solo);
    if (solo && this.heard.size !== 1) this.choose([...this.heard].at(-1) ?? "mixture");
  }

  choose(signal) {
    if (!this.hear.some((button) => button.dataset.signal === signal)) return;
    if (this.solo) this.heard = new Set([signal]);
    else if (!this.heard.delete(signal)) this.heard.add(signal);
    const [shown] = signal.split(/\.(?:reference|estimate)$/);
    if (this.target && signal !== "mixture" && this.target.value !== shown) {
      this.target.value = shown;
      this.showTarget();
    }
    this.showHeard();
  }

  // With another target, what is heard of the last one becomes the same of this one.
  showTarget() {
    for (const part of this.element.querySelectorAll("[data-target]")) part.hidden = part.dataset.target !== this.target.value;
    if (!this.solo) return;
    const kind = [...this.heard][0].match(/\.(reference|estimate)$/);
    if (kind) this.heard = new Set([`${this.target.value}${kind[0]}`]);
    this.showHeard();
  }

  showHeard() {
    for (const button of this.hear) button.setAttribute("aria-pressed", this.heard.has(button.dataset.signal));
    for (const [name, { gain }] of this.nodes ?? []) {
      gain.gain.setTargetAtTime(this.heard.has(name) ? 1 : 0, sharedContext.currentTime, FADE_SECONDS);
    }
    this.showPlace();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    if (!this.nodes) return;
    this.showPlace();
    this.frame = requestAnimationFrame(() => this.draw());
  }

  showPlace() {
    const at = this.position();
    const whole = Math.floor(this.start + at);
    const told = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
    this.element.style.setProperty("--at", at / this.seconds);
    this.slider.value = at;
    this.slider.setAttribute("aria-valuetext", told);
    this.element.querySelector(".time").textContent = told;
    this.element.querySelector(".reading").textContent = this.reading(at);
  }

  reading(at) {
    const target = this.target?.value ?? Object.keys(this.readings.scores)[0];
    const scores = Object.entries(this.readings.scores[target] ?? {});
    const frame = Math.floor(at / this.readings.frame);
    const shown = ([name, values]) => `${name} ${values[frame] === null || values[frame] === undefined ? "–" : values[frame].toFixed(1)}`;
    return scores.length ? `Estimate of ${target} in this frame, dB: ${scores.map(shown).join(", ")}` : "";
  }
}

for (const element of document.querySelectorAll(".player")) element.player = new Player(element);
