/** Pictures by their address: loaded once, kept while they are wanted. */

const MOST = 60;

/** `get(url)` gives the picture, or null while it comes; `arrived()` is called when one has come. */
export function createPictures(arrived) {
  const known = new Map();

  function load(url) {
    const image = new Image();
    const entry = { image, ready: false };
    known.set(url, entry);
    image.src = url;
    entry.whole = image.decode().then(
      () => {
        entry.ready = true;
        arrived(url);
        return image;
      },
      () => {
        known.delete(url);
        return null;
      },
    );
    if (known.size > MOST) known.delete(known.keys().next().value);
    return entry;
  }

  function entryOf(url) {
    const entry = known.get(url);
    if (!entry) return load(url);
    known.delete(url);
    known.set(url, entry);
    return entry;
  }

  return {
    get(url) {
      const entry = entryOf(url);
      return entry.ready ? entry.image : null;
    },
    /** The picture once it is here; null when it cannot be had. */
    whole: (url) => entryOf(url).whole,
  };
}
