//! Small ELF files from words: what the kernel and the dynamic linker read of one, and no code.

/// Where the file header, and each program header, ends.
const HEADER: usize = 64;
const SEGMENT: usize = 56;

/// An ELF file of 64 bits as the words after `@elf` describe it, see `fixtures/README.md`.
///
/// # Errors
/// A word that means nothing.
pub(crate) fn elf_file(words: &str) -> Result<Vec<u8>, String> {
    let mut elf = Elf {
        machine: 62,
        kind: 3,
        interpreter: None,
        big_endian: false,
        names: vec![0],
        dynamic: Vec::new(),
        needs: Vec::new(),
        defines: Vec::new(),
    };
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or_else(|| unknown(word))?;
        match key {
            "machine" => {
                elf.machine = match value {
                    "amd64" => 62,
                    "arm64" => 183,
                    "riscv64" => 243,
                    "ppc64" => 21,
                    "s390x" => 22,
                    _ => return Err(unknown(word)),
                }
            }
            "order" => elf.big_endian = value == "big",
            "type" => {
                elf.kind = match value {
                    "rel" => 1,
                    "exec" => 2,
                    "dyn" => 3,
                    _ => return Err(unknown(word)),
                }
            }
            "interpreter" => elf.interpreter = Some(value.to_owned()),
            "needed" => elf.tag(1, value),
            "soname" => elf.tag(14, value),
            "rpath" => elf.tag(15, value),
            "runpath" => elf.tag(29, value),
            "needs" => {
                let (library, version) = value.split_once(':').ok_or_else(|| unknown(word))?;
                let pair = (elf.name(library), elf.name(version));
                elf.needs.push(pair);
            }
            "defines" => {
                let name = elf.name(value);
                elf.defines.push(name);
            }
            _ => return Err(unknown(word)),
        }
    }
    Ok(elf.bytes())
}

fn unknown(word: &str) -> String {
    format!("`{word}` says nothing about an ELF file")
}

struct Elf {
    machine: u16,
    kind: u16,
    interpreter: Option<String>,
    big_endian: bool,
    names: Vec<u8>,
    dynamic: Vec<(u64, u64)>,
    /// Library and version, as offsets of names.
    needs: Vec<(u32, u32)>,
    defines: Vec<u32>,
}

impl Elf {
    fn name(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.names.len()).expect("a short table");
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        at
    }

    fn tag(&mut self, tag: u64, name: &str) {
        let at = self.name(name).into();
        self.dynamic.push((tag, at));
    }

    fn bytes(mut self) -> Vec<u8> {
        let interpreter = self
            .interpreter
            .take()
            .map(|path| [path.as_bytes(), &[0]].concat());
        let is_dynamic =
            !self.dynamic.is_empty() || !self.needs.is_empty() || !self.defines.is_empty();
        let segments = 1 + usize::from(interpreter.is_some()) + usize::from(is_dynamic);
        let mut body = Writer {
            bytes: Vec::new(),
            start: HEADER + segments * SEGMENT,
            big_endian: self.big_endian,
        };
        let interpreter_at = body.position();
        body.bytes.extend(interpreter.iter().flatten());
        let names_at = body.position();
        body.bytes.extend(&self.names);
        if is_dynamic {
            self.dynamic.push((5, names_at));
            self.dynamic.push((10, self.names.len() as u64));
        }
        if !self.needs.is_empty() {
            self.dynamic.push((0x6fff_fffe, body.position()));
            self.dynamic.push((0x6fff_ffff, self.needs.len() as u64));
        }
        for (index, (library, version)) in self.needs.iter().enumerate() {
            let next = if index + 1 < self.needs.len() { 32 } else { 0 };
            body.half(1).half(1).word(*library).word(16).word(next);
            body.word(0).half(0).half(2).word(*version).word(0);
        }
        if !self.defines.is_empty() {
            self.dynamic.push((0x6fff_fffc, body.position()));
            self.dynamic.push((0x6fff_fffd, self.defines.len() as u64));
        }
        for (index, name) in self.defines.iter().enumerate() {
            let next = if index + 1 < self.defines.len() {
                28
            } else {
                0
            };
            body.half(1)
                .half(0)
                .half(2)
                .half(1)
                .word(0)
                .word(20)
                .word(next);
            body.word(*name).word(0);
        }
        let dynamic_at = body.position();
        if is_dynamic {
            self.dynamic.push((0, 0));
            for (tag, value) in &self.dynamic {
                body.long(*tag).long(*value);
            }
        }
        let end = body.position();

        let mut file = Writer {
            bytes: vec![
                0x7f,
                b'E',
                b'L',
                b'F',
                2,
                if self.big_endian { 2 } else { 1 },
                1,
            ],
            start: 0,
            big_endian: self.big_endian,
        };
        file.bytes.resize(16, 0);
        file.half(self.kind).half(self.machine).word(1);
        file.long(0).long(HEADER as u64).long(0).word(0);
        file.half(64)
            .half(56)
            .half(segments as u16)
            .half(0)
            .half(0)
            .half(0);
        let mut segment = |kind, from: u64, to: u64| {
            file.word(kind).word(5).long(from).long(from).long(from);
            file.long(to - from).long(to - from).long(1);
        };
        if interpreter.is_some() {
            segment(3, interpreter_at, names_at);
        }
        segment(1, 0, end);
        if is_dynamic {
            segment(2, dynamic_at, end);
        }
        file.bytes.extend(body.bytes);
        file.bytes
    }
}

struct Writer {
    bytes: Vec<u8>,
    /// What its first byte is in the file.
    start: usize,
    big_endian: bool,
}

impl Writer {
    fn position(&self) -> u64 {
        (self.start + self.bytes.len()) as u64
    }

    fn put(&mut self, value: u64, size: usize) -> &mut Self {
        if self.big_endian {
            self.bytes.extend(&value.to_be_bytes()[8 - size..]);
        } else {
            self.bytes.extend(&value.to_le_bytes()[..size]);
        }
        self
    }

    fn half(&mut self, value: u16) -> &mut Self {
        self.put(value.into(), 2)
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.put(value.into(), 4)
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.put(value, 8)
    }
}
