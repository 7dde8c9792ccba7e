// `namegate completion bash|zsh|fish`: scripts that complete commands, options and their choices. They are made of the program itself, ask nobody
// when they run, and hold no text but names and the first line of descriptions.
import { Argument, type Command, type Option } from 'commander'
import { print } from './print.ts'

export const shells = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof shells)[number]

/** What may stand behind a word of the command line. */
interface Place {
  /** `` for the program, `fqdn cache list` for a command. */
  readonly path: string
  readonly commands: readonly Command[]
  readonly options: readonly Option[]
  /** Values that an argument may have; undefined: files. */
  readonly choices: readonly string[] | undefined
}

/** Of these options the value is a file, and of no others: names and patterns are not on disk. */
const fileOptions = ['--config', '--policy', '--manifests', '--flows']

function placesOf(command: Command, path: readonly string[] = []): Place[] {
  const commands = command.commands.filter((each) => each.name() !== 'help')
  const help = command.createHelp()
  const argument = command.registeredArguments[0]
  const own: Place = { path: path.join(' '), commands, options: help.visibleOptions(command), choices: argument === undefined ? [] : argument.argChoices } // prettier-ignore
  return [own, ...commands.flatMap((each) => placesOf(each, [...path, each.name()]))]
}

const flagsOf = ({ short, long }: Option): string[] => [short, long].filter((flag) => flag !== undefined)
const takesValue = ({ required, optional }: Option): boolean => required || optional

/** In single quotes, for bash, zsh and fish alike but for the quote itself. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
/** The first sentence of a description, short enough for a menu. */
const brief = (text: string): string => (text.split(/[:;(]/)[0] ?? '').trim().slice(0, 60)

export function completionScript(program: Command, shell: Shell): string {
  const places = placesOf(program)
  return shell === 'bash' ? bashScript(places) : shell === 'zsh' ? zshScript(places) : fishScript(places)
}

/**
 * Both walk the words before the cursor to the command that they name, pass over values of options, and then offer what that command has. Behind
 * `--` there is a command of somebody else's.
 */
function bashScript(places: readonly Place[]): string {
  const words = places.map(({ path, commands, options, choices }) => `    ${quoted(path)}) words=${quoted([...commands.map((each) => each.name()), ...(choices ?? []), ...options.flatMap(flagsOf)].join(' '))}${choices === undefined ? ' files=1' : ''} ;;`) // prettier-ignore
  return `# bash completion for namegate: source <(namegate completion bash)
_namegate() {
  local cur=\${COMP_WORDS[COMP_CWORD]} path='' word words='' files='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [[ $word == -- ]] && { compopt -o default; COMPREPLY=(); return; }
    case "$path $word" in
${subcommandCases(places)}
    esac
    case "$path $word" in
${valueCases(places)} ((i++)) ;;
    esac
  done
  if ((i > COMP_CWORD)); then
    # The word is the value of an option.
    case "$path $word" in
${choiceCases(places)}
${fileCases(places)}
    esac
    COMPREPLY=()
    return
  fi
  case "$path" in
${words.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ -n $files && $cur != -* && \${#COMPREPLY[@]} -eq 0 ]]; then compopt -o default; fi
}
complete -F _namegate namegate
`
}

const key = (path: string, word: string): string => quoted(`${path} ${word}`)

function subcommandCases(places: readonly Place[]): string {
  return places.flatMap(({ path, commands }) => commands.map((each) => `      ${key(path, each.name())}) path=${quoted([path, each.name()].filter(Boolean).join(' '))}; continue ;;`)).join('\n') // prettier-ignore
}

const withValues = (places: readonly Place[]): { readonly path: string; readonly option: Option }[] => places.flatMap(({ path, options }) => options.filter(takesValue).map((option) => ({ path, option }))) // prettier-ignore
const keysOf = ({ path, option }: { readonly path: string; readonly option: Option }): string[] => flagsOf(option).map((flag) => key(path, flag)) // prettier-ignore

function valueCases(places: readonly Place[]): string {
  return `      ${withValues(places).flatMap(keysOf).join(' | ')})`
}

function choiceCases(places: readonly Place[]): string {
  return withValues(places).flatMap((each) => each.option.argChoices === undefined ? [] : [`      ${keysOf(each).join(' | ')}) COMPREPLY=($(compgen -W ${quoted(each.option.argChoices.join(' '))} -- "$cur")); return ;;`]).join('\n') // prettier-ignore
}

function fileCases(places: readonly Place[]): string {
  return `      ${withValues(places).filter(({ option }) => fileOptions.includes(option.long ?? '')).flatMap(keysOf).join(' | ')}) compopt -o default; COMPREPLY=(); return ;;` // prettier-ignore
}

function zshScript(places: readonly Place[]): string {
  /** `name:description` as _describe takes it. */
  const item = (name: string, description: string): string => quoted(`${name.replaceAll(':', '\\:')}:${brief(description)}`) // prettier-ignore
  const words = places.map(({ path, commands, options, choices }) => `    ${quoted(path)}) items=(${[...commands.map((each) => item(each.name(), each.description())), ...(choices ?? []).map((each) => item(each, '')), ...options.flatMap((option) => flagsOf(option).map((flag) => item(flag, option.description)))].join(' ')})${choices === undefined ? ' files=1' : ''} ;;`) // prettier-ignore
  const choices = withValues(places).flatMap((each) => each.option.argChoices === undefined ? [] : [`      ${keysOf(each).join(' | ')}) compadd -- ${each.option.argChoices.join(' ')}; return ;;`]) // prettier-ignore
  const files = withValues(places).filter(({ option }) => fileOptions.includes(option.long ?? '')).flatMap(keysOf).join(' | ') // prettier-ignore
  return `#compdef namegate
# zsh completion for namegate: namegate completion zsh > a folder of $fpath, as _namegate; or source <(namegate completion zsh)
_namegate() {
  local path_of='' word files='' i
  local -a items
  for ((i = 2; i < CURRENT; i++)); do
    word=$words[i]
    [[ $word == -- ]] && { _files; return; }
    case "$path_of $word" in
${subcommandCases(places).replaceAll(') path=', ') path_of=')}
    esac
    case "$path_of $word" in
${valueCases(places)} ((i++)) ;;
    esac
  done
  if ((i > CURRENT)); then
    case "$path_of $word" in
${choices.join('\n')}
      ${files}) _files; return ;;
    esac
    return
  fi
  case "$path_of" in
${words.join('\n')}
  esac
  _describe namegate items
  if [[ -n $files && $PREFIX != -* ]]; then _files; fi
}
if [[ $funcstack[1] == _namegate ]]; then _namegate "$@"; else compdef _namegate namegate; fi
`
}

function fishScript(places: readonly Place[]): string {
  const lines = places.flatMap((place) => {
    const { path, commands, options, choices } = place
    const when = `-n ${quoted(`__namegate_at ${path}`.trim())}`
    const about = (text: string): string => `-d ${quoted(brief(text)).replaceAll(`'\\''`, `\\'`)}`
    return [
      ...commands.map((each) => `complete -c namegate ${when} -a ${each.name()} ${about(each.description())}`),
      ...(choices ?? []).map((each) => `complete -c namegate ${when} -a ${each}`),
      ...(choices === undefined ? [`complete -c namegate ${when} -F`] : []),
      ...options.map((option) => `complete -c namegate ${when}${option.short === undefined ? '' : ` -s ${option.short.slice(1)}`}${option.long === undefined ? '' : ` -l ${option.long.slice(2)}`}${valueOf(option)} ${about(option.description)}`), // prettier-ignore
    ]
  })
  const subcommands = places.flatMap(({ path, commands }) => commands.map((each) => `            case ${key(path, each.name())}\n                set path ${quoted([path, each.name()].filter(Boolean).join(' '))}`)).join('\n') // prettier-ignore
  const values = withValues(places).flatMap(keysOf).join(' ')
  return `# fish completion for namegate: namegate completion fish | source
function __namegate_at
    set -l path ''
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$path $word"
${subcommands}
            case ${values}
                set skip 1
            case '* --'
                return 1
        end
    end
    test "$path" = "$argv"
end
complete -c namegate -f
${lines.join('\n')}
`
}

function valueOf(option: Option): string {
  if (!takesValue(option)) return ''
  if (option.argChoices !== undefined) return ` -x -a ${quoted(option.argChoices.join(' '))}`
  return fileOptions.includes(option.long ?? '') ? ' -r -F' : ' -x'
}

export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('a script by which a shell completes commands and options')
    .addArgument(new Argument('<shell>', 'whose').choices([...shells]))
    .addHelpText('after', '\nExamples:\n  source <(namegate completion bash)\n  namegate completion zsh > "${fpath[1]}/_namegate"\n  namegate completion fish > ~/.config/fish/completions/namegate.fish')
    .action(async (shell: Shell) => void (await print(completionScript(program, shell))))
} // prettier-ignore
