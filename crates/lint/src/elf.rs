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
/// Linkers make two or three small segments of notes; of a file with more, or longer ones, the others are not read.
const MAX_NOTE_SEGMENTS: usize = 16;
const MAX_NOTES: u64 = 64 << 10;
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
    let mut found = Elf {
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
    match parse_segments(kept, header, endian, &mut found) {
        Err(_) if kept.has_missed() => Ok(found),
        result => result.map(|()| found),
    }
}

fn wrong(error: object::read::Error) -> String {
    error.to_string()
}

/// What a dynamic section says is found as a whole or not at all: libraries without the directories they are in would
/// mislead.
fn parse_segments<H: FileHeader<Endian = Endianness>>(
    kept: &ElfStream,
    header: &H,
    endian: Endianness,
    found: &mut Elf,
) -> Result<(), String> {
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
        // Notes that cannot be read say nothing, wherever they are.
        kept.forget_missed();
    }
    match dynamic {
        Some(dynamic) => {
            *found = parse_dynamic::<H>(kept, segments, dynamic, endian, found.clone())?;
            Ok(())
        }
        None => Ok(()),
    }
}

fn parse_dynamic<H: FileHeader<Endian = Endianness>>(
    kept: &ElfStream,
    segments: &[H::ProgramHeader],
    dynamic: &[H::Dyn],
    endian: Endianness,
    mut found: Elf,
) -> Result<Elf, String> {
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
    let is_read = |segment: &&H::ProgramHeader| {
        segment.p_type(endian) == elf::PT_NOTE && segment.p_filesz(endian).into() <= MAX_NOTES
    };
    // All of them may be the same bytes.
    for segment in segments.iter().filter(is_read).take(MAX_NOTE_SEGMENTS) {
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
    let mut steps = MAX_NAMES;
    for _ in 0..MAX_NAMES {
        let library: &elf::Verneed<Endianness> = kept.read_at(at).map_err(outside)?;
        let mut versions = Vec::new();
        let mut version_at = at.saturating_add(library.vn_aux.get(endian).into());
        for _ in 0..library.vn_cnt.get(endian) {
            let version: &elf::Vernaux<Endianness> = kept.read_at(version_at).map_err(outside)?;
            steps = steps.checked_sub(1).ok_or("it needs too many versions")?;
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
mod tests;
