// Long work that the service does in steps: call after call, patient where it asks for patience.

const WAIT = 5; // s, where it names no time

const rest = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1_000));

/**
 * Call `step()` while `take(answer)` says that there is more and nobody has stopped it. Asked too
 * often, or with too much to do, the service names a time: `waits(seconds)` is told how long is
 * left, every second, and it goes on.
 */
export async function inSteps(step, { take, waits = () => {}, stopped = () => false }) {
  for (let more = true; more && !stopped(); ) {
    try {
      more = take(await step());
    } catch (error) {
      if (![429, 503].includes(error.status) || stopped()) throw error;
      for (let left = error.wait ?? WAIT; left > 0 && !stopped(); left--) {
        waits(left);
        await rest(1);
      }
    }
  }
}
