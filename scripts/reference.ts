// The reference of `tp`, read from its types and their doc comments, for packages/tidepool/reference.json.
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import type { Entry } from '../packages/tidepool/cli/docs.ts'
import { codes } from '../packages/tidepool/src/errors.ts'

const file = fileURLToPath(new URL('../packages/tidepool/src/tp.ts', import.meta.url))

/** The members of these have no entries of their own: their types say enough, or they are documented elsewhere. */
const closed = new Set(['state', 'secrets', 'runs'])

/** Reads the reference. @throws Error for a member without a description or an example */
export function reference(): string {
  const program = ts.createProgram([file], {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    customConditions: ['source'],
    allowImportingTsExtensions: true,
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: ['node'],
  })
  const checker = program.getTypeChecker()
  const source = program.getSourceFile(file)
  const exported = source && checker.getSymbolAtLocation(source)
  const tp = exported && checker.getExportsOfModule(exported).find(({ name }) => name === 'Tp')
  if (!tp || !source) throw new Error('tp.ts exports no Tp')

  const text = (parts: ts.SymbolDisplayPart[] | undefined) => ts.displayPartsToString(parts ?? []).trim()
  const tagsOf = (tags: ts.JSDocTagInfo[], name: string) =>
    tags.filter((tag) => tag.name === name).map((tag) => text(tag.text))

  function entry(name: string, symbol: ts.Symbol, deep: boolean): Entry {
    const type = checker.getTypeOfSymbolAtLocation(symbol, source as ts.Node)
    const signatures = type.getCallSignatures()
    const tags = [...symbol.getJsDocTags(checker), ...signatures.flatMap((each) => each.getJsDocTags())]
    const documented = signatures.map((each) => text(each.getDocumentationComment(checker)))
    const unique = (all: string[]) => [...new Set(all.filter(Boolean))]
    const flags = ts.TypeFormatFlags.NoTruncation
    const members =
      deep && signatures.length === 0 && (type.flags & ts.TypeFlags.Object) !== 0 && !checker.isArrayType(type)
        ? type.getProperties().map((property) => entry(`${name}.${property.name}`, property, false))
        : []
    return {
      name,
      signatures: (signatures.length
        ? signatures.map((each) => checker.signatureToString(each, source, flags))
        : [checker.typeToString(type, source, flags)]
      ).map((each) => each.replace(/import\("[^"]+"\)\./g, '')),
      description: text(symbol.getDocumentationComment(checker)) || (documented.find(Boolean) ?? ''),
      parameters: unique(tagsOf(tags, 'param')).map((tag) => {
        const [first = '', ...rest] = tag.split(/\s+/)
        return { name: first, description: rest.join(' ') }
      }),
      returns: unique(tagsOf(tags, 'returns'))[0] ?? '',
      limits: unique(tagsOf(tags, 'limit')),
      errors: unique(
        tagsOf(tags, 'throws')
          .flatMap((tag) => [...tag.matchAll(/`(\w+)`/g)].map(([, code]) => code ?? ''))
          .filter((code) => code in codes),
      ),
      examples: unique(tagsOf(tags, 'example')),
      ...(members.length > 0 && { members }),
    }
  }

  const tools = checker
    .getDeclaredTypeOfSymbol(tp)
    .getProperties()
    .map((property) => entry(`tp.${property.name}`, property, !closed.has(property.name)))
  for (const { name, description, examples } of tools)
    if (!description || examples.length === 0) throw new Error(`${name} needs a description and an example`)
  const errors = Object.entries(codes).map(([code, [status, meaning, hint]]) => ({ code, status, meaning, hint }))
  return `${JSON.stringify({ tools, errors }, null, 2)}\n`
}
