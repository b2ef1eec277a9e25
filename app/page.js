// What only the browser can do: copy an answer, read a file that a person chose, save a text as a file, name what has no name.
window.medllama = {
  save(name, text) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain;charset=utf-8' }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);  // not every browser has begun to read it by now
  },

  // The text of a file, what was there before if none is chosen, or null for what is no text or too large (app/batch.py). The file
  // goes nowhere but into the box.
  choose(before) {
    return new Promise((resolve) => {
      const input = Object.assign(document.createElement('input'), { type: 'file', accept: '.txt,.jsonl,text/plain' });
      input.onchange = async () => {
        const file = input.files[0];
        if (file.size > 400_000) return resolve(null);
        try {
          resolve(new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer()));
        } catch {
          resolve(null);
        }
      };
      input.oncancel = () => resolve(before);
      input.click();
    });
  },
};

document.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const text = button.closest('article').querySelector('.text').textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers keep the clipboard from pages that come without HTTPS from another machine: the old way still works.
    const box = Object.assign(document.createElement('textarea'), { value: text });
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
    button.focus();
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
});

// Gradio draws the name of a group of choices beside it and does not tell a screen reader that they belong together.
new MutationObserver(() => {
  for (const group of document.querySelectorAll('fieldset:not([aria-label])')) {
    const name = group.querySelector('[data-testid="block-info"]')?.textContent.trim();
    if (name) group.setAttribute('aria-label', name);
  }
}).observe(document, { childList: true, subtree: true });
