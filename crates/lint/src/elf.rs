//! What the kernel and the dynamic linker look at in an ELF file (elf(5), ld.so(8)).

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, StringTable};
use serde::{Deserialize, Serialize};
use std::cell::Cell;

use crate::elf_stream::ElfStream;

/// Nobody needs more libraries, or versions of one; a file that says so is broken.
const MAX_NAMES: usize = 4096;
/// All names of a file together, in bytes: tables can point at the same long name over and over.
const MAX_NAME_BYTES: usize = 256 << 10;
/// The kernel takes no longer one (PATH_MAX, fs/binfmt_elf.c).
const MAX_INTERPRETER: usize = 4096;

/// An ELF program or library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Elf {
    /// `e_machine`.
    pub(crate) machine: u16,
    pub(crate) is_64: bool,
    pub(crate) little_endian: bool,
    /// `e_type`: ET_EXEC or ET_DYN can be run.
    pub(crate) kind: u16,
    pub(crate) interpreter: Option<String>,
    pub(crate) needed: Vec<String>,
    pub(crate) rpath: Vec<String>,
    pub(crate) runpath: Vec<String>,
    pub(crate) soname: Option<String>,
    /// Library and the symbol versions that are needed of it; weak ones are left out.
    pub(crate) versions_needed: Vec<(String, Vec<String>)>,
    pub(crate) versions_defined: Vec<String>,
    /// The level of x86-64 it says it needs, 2 to 4 (x86-64 psABI, "ISA needed" of the GNU property note).
    pub(crate) cpu_level: Option<u8>,
}

impl Elf {
    /// What the file says, as far as it was kept.
    pub(crate) fn read(file: &ElfStream) -> Result<Self, String> {
        match file.class() {
            Some(elf::ELFCLASS32) => parse::<elf::FileHeader32<Endianness>>(file),
            Some(elf::ELFCLASS64) => parse::<elf::FileHeader64<Endianness>>(file),
            _ => Err("it is of no class that exists".to_owned()),
        }
    }
}

/// That something cannot be read which was not kept is no mistake of the file's.
fn parse<H: FileHeader<Endian = Endianness>>(kept: &ElfStream) -> Result<Elf, String> {
    let header = H::parse(kept).map_err(wrong)?;
    let endian = header.endian().map_err(wrong)?;
    let bare = Elf {
        machine: header.e_machine(endian).0,
        is_64: header.is_type_64(),
        little_endian: header.is_little_endian(),
        kind: header.e_type(endian).0,
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        soname: None,
        versions_needed: Vec::new(),
        versions_defined: Vec::new(),
        cpu_level: None,
    };
    match parse_tables(kept, header, endian, bare.clone()) {
        Err(_) if kept.has_missed() => Ok(bare),
        result => result,
    }
}

fn wrong(error: object::read::Error) -> String {
    error.to_string()
}

fn parse_tables<H: FileHeader<Endian = Endianness>>(
    kept: &ElfStream,
    header: &H,
    endian: Endianness,
    mut found: Elf,
) -> Result<Elf, String> {
    let segments = header.program_headers(endian, kept).map_err(wrong)?;
    let mut dynamic = None;
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, kept).map_err(wrong)? {
            if path.len() > MAX_INTERPRETER {
                return Err("the path of its dynamic linker is too long".to_owned());
            }
            // The kernel takes the first.
            found.interpreter.get_or_insert_with(|| text(path));
        }
        if let Some(entries) = segment.dynamic(endian, kept).map_err(wrong)? {
            dynamic = Some(entries);
        }
    }
    if elf::Machine(found.machine) == elf::EM_X86_64 {
        found.cpu_level = cpu_level::<H>(segments, endian, kept);
    }
    let Some(dynamic) = dynamic else {
        return Ok(found);
    };
    // The kernel maps segments; addresses in the dynamic section are of the mapped file.
    let offset_of = |address: u64| {
        segments.iter().find_map(|segment| {
            let start: u64 = segment.p_vaddr(endian).into();
            let size: u64 = segment.p_filesz(endian).into();
            let offset: u64 = segment.p_offset(endian).into();
            let inside = segment.p_type(endian) == elf::PT_LOAD
                && (start..start.checked_add(size)?).contains(&address);
            inside
                .then(|| offset.checked_add(address - start))
                .flatten()
        })
    };
    let entries = || {
        dynamic
            .iter()
            .map(|entry| (entry.tag(endian), entry.val(endian)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
    };
    let value = |wanted: elf::DynamicTag| -> Option<u64> {
        entries()
            .find(|(tag, _)| *tag == wanted)
            .map(|(_, value)| value)
    };
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Ok(found);
    };
    let Some(start) = offset_of(address) else {
        return Err("its table of names is outside every segment".to_owned());
    };
    let strings = StringTable::new(kept, start, start.saturating_add(size));
    let room = Cell::new(MAX_NAME_BYTES);
    let name = |at: u64| -> Result<String, String> {
        let at = u32::try_from(at).map_err(|error| error.to_string())?;
        let bytes = strings
            .get(at)
            .map_err(|()| "a name is outside its table")?;
        // Each counts for more than its bytes, so that empty ones have an end too.
        let left = room.get().checked_sub(bytes.len() + 8);
        room.set(left.ok_or("its names are too many or too long")?);
        Ok(text(bytes))
    };
    for (tag, at) in entries().take(MAX_NAMES) {
        match tag {
            elf::DT_NEEDED => found.needed.push(name(at)?),
            elf::DT_SONAME => found.soname = Some(name(at)?),
            elf::DT_RPATH => found.rpath = search_path(&name(at)?),
            elf::DT_RUNPATH => found.runpath = search_path(&name(at)?),
            _ => {}
        }
    }
    if let Some(start) = value(elf::DT_VERNEED).and_then(offset_of) {
        found.versions_needed = versions_needed(kept, endian, start, &name)?;
    }
    if let Some(start) = value(elf::DT_VERDEF).and_then(offset_of) {
        found.versions_defined = versions_defined(kept, endian, start, &name)?;
    }
    Ok(found)
}

/// The highest bit of the property says what the linker asks for: the baseline, v2, v3 or v4. Notes that cannot be read
/// ask for nothing, as they do of the dynamic linker.
fn cpu_level<H: FileHeader<Endian = Endianness>>(
    segments: &[H::ProgramHeader],
    endian: Endianness,
    kept: &ElfStream,
) -> Option<u8> {
    let mut bits = 0;
    for segment in segments {
        let Ok(Some(mut notes)) = segment.notes(endian, kept) else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            let Some(mut properties) = note.gnu_properties(endian) else {
                continue;
            };
            while let Ok(Some(property)) = properties.next() {
                if property.pr_type() == elf::GNU_PROPERTY_X86_ISA_1_NEEDED {
                    bits |= property.data_u32(endian).unwrap_or(0);
                }
            }
        }
    }
    (2..=4).rev().find(|level| bits & (1 << (level - 1)) != 0)
}

/// The chain at DT_VERNEED: a library, and its own chain of versions (Linux Standard Base, symbol versioning).
fn versions_needed(
    kept: &ElfStream,
    endian: Endianness,
    start: u64,
    name: &dyn Fn(u64) -> Result<String, String>,
) -> Result<Vec<(String, Vec<String>)>, String> {
    let outside = |()| "its table of needed versions ends early".to_owned();
    let mut needed = Vec::new();
    let mut at = start;
    for _ in 0..MAX_NAMES {
        let library: &elf::Verneed<Endianness> = kept.read_at(at).map_err(outside)?;
        let mut versions = Vec::new();
        let mut version_at = at.saturating_add(library.vn_aux.get(endian).into());
        for _ in 0..library.vn_cnt.get(endian) {
            let version: &elf::Vernaux<Endianness> = kept.read_at(version_at).map_err(outside)?;
            if version.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 == 0 {
                versions.push(name(version.vna_name.get(endian).into())?);
            }
            match version.vna_next.get(endian) {
                0 => break,
                next => version_at = version_at.saturating_add(next.into()),
            }
        }
        needed.push((name(library.vn_file.get(endian).into())?, versions));
        match library.vn_next.get(endian) {
            0 => break,
            next => at = at.saturating_add(next.into()),
        }
    }
    Ok(needed)
}

/// The chain at DT_VERDEF: each definition's first name is the version.
fn versions_defined(
    kept: &ElfStream,
    endian: Endianness,
    start: u64,
    name: &dyn Fn(u64) -> Result<String, String>,
) -> Result<Vec<String>, String> {
    let outside = |()| "its table of defined versions ends early".to_owned();
    let mut defined = Vec::new();
    let mut at = start;
    for _ in 0..MAX_NAMES {
        let version: &elf::Verdef<Endianness> = kept.read_at(at).map_err(outside)?;
        let first: &elf::Verdaux<Endianness> = kept
            .read_at(at.saturating_add(version.vd_aux.get(endian).into()))
            .map_err(outside)?;
        defined.push(name(first.vda_name.get(endian).into())?);
        match version.vd_next.get(endian) {
            0 => break,
            next => at = at.saturating_add(next.into()),
        }
    }
    Ok(defined)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn search_path(text: &str) -> Vec<String> {
    text.split(':').map(str::to_owned).collect()
}

/// A machine as people call it, by `e_machine`.
pub(crate) fn machine_name(machine: u16, is_64: bool) -> String {
    let name = match elf::Machine(machine) {
        elf::EM_X86_64 if is_64 => "amd64",
        elf::EM_X86_64 => "x32",
        elf::EM_386 => "386",
        elf::EM_AARCH64 => "arm64",
        elf::EM_ARM => "arm",
        elf::EM_PPC64 => "ppc64",
        elf::EM_S390 => "s390x",
        elf::EM_RISCV if is_64 => "riscv64",
        elf::EM_RISCV => "riscv32",
        elf::EM_LOONGARCH => "loong64",
        elf::EM_MIPS => "mips",
        _ => return format!("machine {machine}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::elf_stream::MOST;

    /// This very program: dynamic, with needed versions.
    fn program() -> &'static [u8] {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        BYTES.get_or_init(|| std::fs::read(std::env::current_exe().unwrap()).unwrap())
    }

    fn read(bytes: &[u8]) -> Result<Elf, String> {
        let head = bytes.len().min(64);
        let mut file = ElfStream::default();
        file.push(&bytes[..head]);
        for chunk in bytes[head..].chunks(32 << 10) {
            if file.is_done() {
                break;
            }
            file.push(chunk);
        }
        Elf::read(&file)
    }

    #[test]
    fn a_real_program_says_what_it_needs() {
        let elf = read(program()).unwrap();
        assert!(
            elf.interpreter.unwrap().contains("/ld-"),
            "a dynamic program"
        );
        let libc = elf.needed.iter().find(|name| name.starts_with("libc."));
        let versions = elf
            .versions_needed
            .iter()
            .find(|(name, _)| Some(name) == libc);
        let (_, versions) = versions.unwrap();
        assert!(
            versions
                .iter()
                .any(|version| version.starts_with("GLIBC_2.")),
            "{versions:?}"
        );
    }

    /// Where the program header of that type is.
    fn segment(bytes: &[u8], kind: u8) -> usize {
        let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
        let mut places = (0..count).map(|index| 64 + index * 56);
        places
            .find(|at| bytes[*at..at + 4] == [kind, 0, 0, 0])
            .unwrap()
    }

    fn number(bytes: &[u8], at: usize) -> usize {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    }

    #[test]
    fn a_dynamic_section_is_found_wherever_it_is() {
        let whole = read(program()).unwrap();
        let header = segment(program(), 2);
        let (from, size) = (
            number(program(), header + 8),
            number(program(), header + 32),
        );
        let section = &program()[from..from + size];
        for place in [MOST - size, MOST - 64, MOST - 16, MOST, MOST + 4096] {
            let mut bytes = program()[..program().len().min(MOST)].to_vec();
            bytes.resize(MOST + (1 << 20), 0);
            bytes[place..place + size].copy_from_slice(section);
            bytes[header + 8..header + 16].copy_from_slice(&(place as u64).to_le_bytes());
            assert_eq!(read(&bytes).unwrap(), whole, "{place}");
        }
    }

    /// Headers of a program for x86-64 with these program headers, up to 0x200.
    fn headers(segments: &[Vec<u8>]) -> Vec<u8> {
        let count = u8::try_from(segments.len()).unwrap();
        let mut bytes = [
            b"\x7fELF\x02\x01\x01".as_slice(),
            &[0; 9],
            &3_u16.to_le_bytes(),
            &62_u16.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &[0; 8],
            &64_u64.to_le_bytes(),
            &[0; 12],
            &[64, 0, 56, 0, count, 0, 0, 0, 0, 0, 0, 0],
            &segments.concat(),
        ]
        .concat();
        bytes.resize(0x200, 0);
        bytes
    }

    /// A program header: its type, its flags, and where it is in the file and in memory alike.
    fn program_header(kind: u32, flags: u32, from: u64, size: u64) -> Vec<u8> {
        let words = [from, from, from, size, size, 1].map(u64::to_le_bytes);
        [
            &kind.to_le_bytes()[..],
            &flags.to_le_bytes(),
            &words.concat(),
        ]
        .concat()
    }

    fn dynamic(entries: impl IntoIterator<Item = (u64, u64)>) -> Vec<u8> {
        let entries = entries.into_iter().chain([(0, 0)]);
        entries
            .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
            .collect()
    }

    #[test]
    fn names_are_found_behind_any_amount_of_code() {
        const CODE: u64 = 1 << 20;
        let names = CODE + 2 * MOST as u64;
        let entries = dynamic([(5, names), (10, 7), (1, 1)]);
        let behind = names + 16;
        let file = |flags| {
            let mut bytes = headers(&[
                program_header(1, 4, 0, 0x200),
                program_header(1, flags, CODE, names - CODE),
                program_header(1, 6, names, 0x1000),
                program_header(2, 6, behind, entries.len() as u64),
            ]);
            bytes.resize(usize::try_from(names).unwrap(), 0xcc);
            bytes.extend(b"\0libx.");
            bytes.resize(usize::try_from(behind).unwrap(), 0);
            bytes.extend(&entries);
            bytes.resize(bytes.len() + 0x1000, 0);
            bytes
        };
        const READ_EXECUTE: u32 = 5;
        const READ: u32 = 4;
        assert_eq!(read(&file(READ_EXECUTE)).unwrap().needed, ["libx."]);
        // There was too much before them.
        let elf = read(&file(READ)).unwrap();
        assert_eq!((elf.machine, elf.needed), (62, vec![]));
    }

    #[test]
    fn names_within_code_are_not_known_and_names_behind_the_end_are_a_mistake() {
        let entries = dynamic([(5, 0x20000), (10, 7), (1, 1)]);
        let mut bytes = headers(&[
            program_header(1, 4, 0, 0x10000),
            program_header(1, 5, 0x10000, 0x20000),
            program_header(2, 6, 0x200, entries.len() as u64),
        ]);
        bytes.extend(&entries);
        bytes.resize(0x18000, 0);
        read(&bytes).unwrap_err();
        bytes.resize(0x30000, 0);
        assert_eq!(read(&bytes).unwrap().needed, [""; 0]);
    }

    #[test]
    fn it_does_not_matter_in_how_many_pieces_a_file_comes() {
        let whole = {
            let mut file = ElfStream::default();
            file.push(program());
            Elf::read(&file).unwrap()
        };
        assert_eq!(read(program()).unwrap(), whole);
    }

    #[test]
    fn tables_out_of_reach_are_no_mistake() {
        let mut bytes = program()[..4096].to_vec();
        bytes[32..40].copy_from_slice(&(MOST as u64 + 4096).to_le_bytes());
        read(&bytes).unwrap_err();
        bytes.resize(MOST + (1 << 20), 0);
        let elf = read(&bytes).unwrap();
        assert_eq!(elf.machine, read(program()).unwrap().machine);
        assert_eq!(elf.interpreter, None);
    }

    #[test]
    fn one_long_name_over_and_over_is_refused() {
        // 3000 libraries that are all called by the same 8000 letters.
        let names = std::iter::repeat_n((1, 0), 3000);
        let entries = dynamic([(5, 0x200), (10, 8001)].into_iter().chain(names));
        let mut bytes = headers(&[
            program_header(1, 4, 0, 1 << 20),
            program_header(2, 4, 0x200 + 8001, entries.len() as u64),
        ]);
        bytes.extend([b'a'; 8000]);
        bytes.push(0);
        bytes.extend(entries);
        let problem = read(&bytes).unwrap_err();
        assert_eq!(problem, "its names are too many or too long");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn damaged_programs_never_panic_nor_grow(
            changes in prop::collection::vec((0_usize..4096, any::<u8>()), 1..24),
            length in 0_usize..1 << 20,
        ) {
            let mut bytes = program()[..length.max(4096).min(program().len())].to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(elf) = read(&bytes) {
                let names = elf.needed.iter().chain(&elf.versions_defined);
                prop_assert!(names.map(String::len).sum::<usize>() <= 3 * MAX_NAME_BYTES);
            }
        }
    }
}
