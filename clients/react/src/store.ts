/** A value that components share, and that is kept up to date for as long as any of them shows it. */
export abstract class Store<T> {
  #state: T;
  #listeners = new Set<() => void>();
  #running: AbortController | undefined;

  constructor(initial: T) {
    this.#state = initial;
  }

  // Arrow functions: React is handed them bare, and they must stay the same.
  readonly get = (): T => this.#state;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    this.#running ??= this.#start();
    return () => {
      this.#listeners.delete(listener);
      // Not at once: React's strict mode and a change of page unmount and mount in one go.
      setTimeout(() => this.#stopIfUnused(), 0);
    };
  };

  /** Keeps the state up to date until the signal; must not throw. */
  protected abstract run(signal: AbortSignal): Promise<void>;

  protected set(state: T): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }

  #start(): AbortController {
    const controller = new AbortController();
    void this.run(controller.signal);
    return controller;
  }

  #stopIfUnused(): void {
    if (this.#listeners.size > 0) return;
    this.#running?.abort();
    this.#running = undefined;
  }
}
