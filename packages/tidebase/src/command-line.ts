// What a command line did not understand, said as our errors are.
import type { Command, CommanderError } from 'commander'
import { StartError } from './errors.ts'

/**
 * The error `usage` for what the parser refused.
 *
 * @param argv without the program's name
 * @param program whose commands they were; its parser must throw (`exitOverride`)
 */
export function usageError({ code, message }: CommanderError, argv: readonly string[], program: Command): StartError {
  const [first = ''] = argv
  const known = program.commands.map((command) => command.name())
  // A default command stands for no command at all, so a word that is none looks to the parser like its argument.
  const noCommand = code === 'commander.excessArguments' && !known.includes(first) && !first.startsWith('-')
  const [sentence = '', suggestion] =
    code === 'commander.help'
      ? [`${program.name()} ${first} takes a command.`]
      : noCommand
        ? [`There is no command ${JSON.stringify(first)}.`]
        : message.replace(/^error: /, '').split('\n')
  const help = `\`${[program.name(), ...known.filter((name) => name === first), '--help'].join(' ')}\` shows what there is.`
  return new StartError('usage', sentence, suggestion ? `${suggestion.replace(/[()]/g, '')} ${help}` : help)
}
