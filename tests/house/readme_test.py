"""Runs what README.md tells a newcomer to run, in a folder of its own.

usage: readme_test.py ROOT PROGRAMS commands|python|subcommands [PYTHON]

commands     the block under "Five commands", line by line; then every file it names exists
python       the Python snippets, on the capture those commands make (PYTHON has h5py and matplotlib)
subcommands  README's table and `kvscope --help` name the same subcommands
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

SKIPPED = 77


def blocks(readme, heading, language):
    """The fenced blocks of a language under a heading."""
    section = readme.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(command, folder, programs):
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, executable="/bin/bash", cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    print(f"$ {command}\n{done.stdout}")
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}")


def main(root, programs, mode, python=sys.executable):
    root, programs = pathlib.Path(root).resolve(), pathlib.Path(programs).resolve()
    readme = (root / "README.md").read_text(encoding="utf-8")
    commands = blocks(readme, "Five commands", "sh")[0].strip().splitlines()
    if len(commands) != 5:
        sys.exit(f"{len(commands)} commands under 'Five commands'")
    if mode == "subcommands":
        named = {name for row in re.findall(r"^\| (`[^|]*) \|", block_table(readme), re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
        text = subprocess.run([programs / "kvscope", "--help"], capture_output=True, text=True, check=True).stdout
        listed = set(re.findall(r"^  (\w+)  ", text.split("Subcommands:", 1)[1], re.MULTILINE))
        if named != listed:
            sys.exit(f"README names {sorted(named)}\nkvscope --help lists {sorted(listed)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "data").symlink_to(root / "data")
        if mode == "python":
            probe = subprocess.run([python, "-c", "import h5py, matplotlib"], capture_output=True, check=False)
            if probe.returncode != 0:
                print(f"{python} has no h5py or no matplotlib; ./run test installs them")
                sys.exit(SKIPPED)
            run(commands[0], folder, programs)
            snippets = blocks(readme, "In Python", "python")
            for text, picture in zip(snippets, ("capture.png", "six.png"), strict=True):
                (pathlib.Path(folder) / "snippet.py").write_text(text, encoding="utf-8")
                run(f"MPLBACKEND=Agg '{python}' snippet.py tiny.capture.h5 && test -s {picture}", folder, programs)
            return
        viewer = (programs / "kvscope-viewer").exists()
        for command in commands if viewer else commands[:-1]:
            run(command, folder, programs)
        made = ["tiny.capture.h5", "tiny.spectrum.h5", "decisions"] + (["picture.png"] if viewer else [])
        missing = [name for name in made if not (pathlib.Path(folder) / name).exists()]
        if missing:
            sys.exit(f"the commands did not make {missing}")


def block_table(readme):
    return readme.split("\n## The pipeline, in order\n", 1)[1].split("\n\nEvery subcommand", 1)[0]


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
