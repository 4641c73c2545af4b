"""Reading machine code: opcodes and loops of a listing, resources, and what a missing tool leaves."""

from pathlib import Path

import pytest

from evolve.judge import sass

LISTING = """
.text.k:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P5 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E.128 R4, desc[UR14][R2.64] ;
        /*0030*/                   LDG.E.U16.CONSTANT R4, desc[UR14][R2.64] ;
.L_x_0:
        /*0040*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8].tnspB, R24 ;
        /*0050*/               @P1 LDGSTS.E.BYPASS.128 [R18+0x18000], desc[UR14][R2.64], P5 ;
        /*0060*/              @UP2 UTMALDG.2D [UR8], [UR4] ;
        /*0070*/              @!P6 BRA `(.L_x_0) ;
.L_x_1:
        /*0080*/                   STG.E [R2], R4 ;
        /*0090*/                   NOP ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
"""


def test_opcodes_widths_and_loops():
    assert sass.count(LISTING) == {
        "total": 10,
        "LDG": 2,
        "LDG.128": 1,
        "LDG.U16": 1,
        "HGMMA": 1,
        "HGMMA@loop": 1,
        "LDGSTS": 1,
        "LDGSTS@loop": 1,
        "LDGSTS.128": 1,
        "LDGSTS.128@loop": 1,
        "UTMALDG": 1,
        "UTMALDG@loop": 1,
        "STG": 1,
        "STG.32": 1,
        "total@loop": 4,
        "total@inner": 4,
        "mma@inner": 1,
        "loops@inner": 1,
    }


def test_nothing_is_counted_in_nothing():
    assert sass.count("") == {}


def test_a_missing_tool_leaves_counts_empty_and_says_so(builder, sanity, sm_90, monkeypatch):
    low = sanity.lowered(sanity.SHAPES[0], _workload(sanity), sm_90)
    made = builder.build(low).of(low.plans[0].launches[0])
    home = Path(made.path)
    whole = sass.inspect_cubin(home / "kernel.cubin")
    assert (whole.registers, whole.spills_bytes, whole.instructions) == (made.registers, 0, made.instructions)
    assert not whole.notes
    monkeypatch.setattr(sass, "tool", lambda name: None)
    bare = sass.inspect_cubin(home / "kernel.cubin", (home / "stdout.txt").read_text())
    assert bare.instructions == {}
    assert bare.registers == made.registers  # the assembler's log is the second source
    assert [note.split()[0] for note in bare.notes] == ["cuobjdump", "nvdisasm"]


def test_spills_are_seen_and_are_no_error(builder, sanity, sm_90):
    spilling = next(s for s in sanity.SHAPES if s.tile == (128, 256, 64) and s.warps == 4)
    low = sanity.lowered(spilling, _workload(sanity), sm_90)
    made = builder.build(low).of(low.plans[0].launches[0])
    assert made.spills_bytes > 500
    assert made.instructions["LDL"] > 0
    assert made.instructions["STL"] > 0
    assert "serialized" in made.log


def test_amds_figures_come_from_its_metadata():
    text = "\tv_mfma_f32_32x32x8_bf16 a\n\tglobal_load_dwordx4 v\n\tds_read_b128 v\n    .sgpr_count:     50\n"
    text += "    .sgpr_spill_count: 0\n    .vgpr_count:     211\n    .vgpr_spill_count: 3\n"
    found = sass.inspect_amd(text)
    assert (found.registers, found.spills_bytes) == (211, 12)
    assert found.instructions == {"total": 3, "MFMA": 1, "LDG": 1, "LDS": 1, "SGPR": 50}


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not an object at all"])
def test_what_is_no_object_has_a_digest_of_nothing(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert sass.code_digest(tmp_path / "x") == sass.hashlib.sha256().hexdigest()[:16]


def _workload(sanity):
    return sanity.Workload(name="w", params={"M": 4096, "N": 4096, "K": 4096, "dtype": "bfloat16"})
