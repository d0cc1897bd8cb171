// Extractive summaries: the sentences whose words are most telling of the text. Deterministic, no network.

const common = new Set(
  'a an and are as at be because but by can do does for from has have how if in into is it its more no not of on one or so that the their them then there they this to was we what when which who will with without you your'.split(
    ' ',
  ),
)

/** The words of a text that say what it is about, in lower case. */
function words(text: string): string[] {
  return (text.toLowerCase().match(/[a-z][a-z-]{2,}/g) ?? []).filter((word) => !common.has(word))
}

/**
 * Summarises a Markdown text.
 *
 * @param count sentences to keep, in the order of the text
 * @returns its title, its most telling words and sentences, and how many words were read
 */
export function summarise(text: string, count = 2): { title: string; about: string[]; summary: string; words: number } {
  const title = /^#\s+(.+)$/m.exec(text)?.[1] ?? 'Untitled'
  const prose = text
    .replace(/```[\s\S]*?```/g, ' ')
    .replace(/^[#>|].*$/gm, ' ')
    .replace(/[*_`[\]]/g, '')
  const frequency = new Map<string, number>()
  for (const word of words(prose)) frequency.set(word, (frequency.get(word) ?? 0) + 1)
  const sentences = prose
    .split(/(?<=[.!?])\s+/)
    .map((sentence) => sentence.replace(/\s+/g, ' ').trim())
    .filter((sentence) => sentence.length > 40 && sentence.length < 300)
  const score = (sentence: string) => {
    const said = words(sentence)
    return said.reduce((sum, word) => sum + (frequency.get(word) ?? 0), 0) / Math.sqrt(said.length + 1)
  }
  const best = new Set([...sentences].sort((a, b) => score(b) - score(a)).slice(0, count))
  const about = [...frequency].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).map(([word]) => word)
  return {
    title,
    about: about.slice(0, 5),
    summary: sentences.filter((sentence) => best.has(sentence)).join(' '),
    words: words(prose).length,
  }
}
