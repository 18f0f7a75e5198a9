//! The kernel command line as coracle's end of the contract with PID 1 of a guest: how a command is written into it and
//! read back. Both ends use this code.
//!
//! A command stands in `coracle.exec=`, its arguments joined with `,`, with every byte outside `A-Za-z0-9_./:=@+-` as
//! `%XX`; so it has neither spaces nor quotes and passes the kernel unchanged. By hand, a command may also follow `--`.

/// The parameter that holds the encoded command.
pub const EXEC: &str = "coracle.exec";

/// The parameter that says what PID 1 shall be; absent for a guest that runs a command.
pub const ROLE: &str = "coracle.role";

/// The parameter with the token by which the agent proves to the host who it is: 32 hexadecimal digits.
pub const TOKEN: &str = "coracle.token";

/// Why an encoded command cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// `%` without two hexadecimal digits.
    #[error("{EXEC} has a `%` that is not followed by two hexadecimal digits, in {0:?}: encode `%` itself as `%25`")]
    Escape(String),
    /// A byte that the encoding leaves out.
    #[error("{EXEC} has the byte {byte:#04x}, which must be encoded as `%{byte:02X}`, in {argument:?}")]
    Byte {
        /// The byte.
        byte: u8,
        /// The argument as it stands.
        argument: String,
    },
    /// An argument with a NUL byte, which no program can be given.
    #[error("{EXEC} has a NUL byte in {0:?}, which no program can be given")]
    Nul(String),
    /// No program.
    #[error("{EXEC} names no program: give a program, then its arguments, joined with `,`")]
    Empty,
}

/// A command as the value of [`EXEC`].
pub fn encode_exec<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let mut value = String::new();
    for (number, argument) in arguments.iter().enumerate() {
        if number > 0 {
            value.push(',');
        }
        for &byte in argument.as_ref() {
            if is_plain(byte) {
                value.push(char::from(byte));
            } else {
                value.push('%');
                for half in [byte >> 4, byte & 15] {
                    value.extend(char::from_digit(u32::from(half), 16).map(|digit| digit.to_ascii_uppercase()));
                }
            }
        }
    }
    value
}

/// The command in a value of [`EXEC`]: the program and its arguments, as bytes without NUL.
pub fn decode_exec(value: &str) -> Result<Vec<Vec<u8>>, CmdlineError> {
    let arguments = value.split(',').map(decode_argument).collect::<Result<Vec<_>, _>>()?;
    match arguments.first() {
        Some(program) if !program.is_empty() => Ok(arguments),
        _ => Err(CmdlineError::Empty),
    }
}

fn decode_argument(text: &str) -> Result<Vec<u8>, CmdlineError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
                let both = digit(0)
                    .zip(digit(1))
                    .and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                bytes.push(both.ok_or_else(|| CmdlineError::Escape(text.to_string()))?);
                rest = after.get(2..).unwrap_or_default();
            }
            _ if is_plain(byte) => bytes.push(byte),
            _ => {
                return Err(CmdlineError::Byte {
                    byte,
                    argument: text.to_string(),
                });
            }
        }
    }
    if bytes.contains(&0) {
        return Err(CmdlineError::Nul(text.to_string()));
    }
    Ok(bytes)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./:=@+-".contains(&byte)
}

/// A kernel command line, split as the kernel splits it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    parameters: Vec<String>,
    arguments: Vec<String>,
}

impl Cmdline {
    /// Splits at white space outside of double quotes, and takes the quotes off (`lib/cmdline.c`, `next_arg`). What
    /// follows a lone `--` is for PID 1.
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let (mut word, mut inside, mut started) = (String::new(), false, false);
        for letter in text.chars() {
            match letter {
                '"' => (inside, started) = (!inside, true),
                _ if letter.is_ascii_whitespace() && !inside => {
                    if started {
                        words.push(std::mem::take(&mut word));
                    }
                    started = false;
                }
                _ => {
                    word.push(letter);
                    started = true;
                }
            }
        }
        if started {
            words.push(word);
        }
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let arguments = words.split_off(end).into_iter().skip(1).collect();
        Self {
            parameters: words,
            arguments,
        }
    }

    /// The value of the last `name=value` before `--`.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.parameters.iter().rev();
        values.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// What follows `--`.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_command_survives_the_command_line() {
        let all: Vec<u8> = (1..=255).collect();
        let arguments: Vec<&[u8]> = vec![b"/bin/sh", b"-c", b"echo \"a b\",$x%41; exit 3", b"", &all, b"--", b""];
        let value = encode_exec(&arguments);
        assert!(value.is_ascii() && !value.contains([' ', '"', '\n']));
        let line = Cmdline::parse(&format!("console=ttyS0 quiet {EXEC}={value}\n"));
        assert_eq!(decode_exec(line.value(EXEC).unwrap()).unwrap(), arguments);
        assert!(line.arguments().is_empty());
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        assert_eq!(encode_exec(&["/bin/echo", "a b", "x=1,2"]), "/bin/echo,a%20b,x=1%2C2");
        assert_eq!(decode_exec("a,%2f%2F").unwrap(), [b"a".to_vec(), b"//".to_vec()]);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        assert_eq!(decode_exec(""), Err(CmdlineError::Empty));
        assert_eq!(decode_exec(",a"), Err(CmdlineError::Empty));
        for wrong in ["%", "%4", "a%4", "%zz", "%+1"] {
            assert_eq!(decode_exec(wrong), Err(CmdlineError::Escape(wrong.to_string())));
        }
        assert_eq!(decode_exec("a,%00"), Err(CmdlineError::Nul("%00".to_string())));
        assert!(matches!(
            decode_exec("a\"b"),
            Err(CmdlineError::Byte { byte: b'"', .. })
        ));
        assert!(matches!(decode_exec("ä"), Err(CmdlineError::Byte { byte: 0xc3, .. })));
    }

    #[test]
    fn the_line_is_split_as_the_kernel_does() {
        let line = Cmdline::parse("a=1 \"b=2 3\" c=\"4  5\" a=6\tquiet -- sh -c \"exit 3\" a=7 --\n");
        assert_eq!(line.value("a"), Some("6"));
        assert_eq!(line.value("b"), Some("2 3"));
        assert_eq!(line.value("c"), Some("4  5"));
        assert_eq!((line.value("quiet"), line.value("d")), (None, None));
        assert_eq!(line.arguments(), ["sh", "-c", "exit 3", "a=7", "--"]);
    }
}
