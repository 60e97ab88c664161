#!/bin/sh
# Prints the figures of README.md, docs/ and the model card that depend on the bundled model's weights:
#
#     DEHAZE_DATA=... sh docs/figures.sh [PART ...]
#
# from the root of a checkout. Without a PART all are printed. Each command stands beside its figures as well. Its
# output goes to runs/figures/NAME.txt. Pictures are drawn into docs/. All parts take about an hour of one core; two
# parts may run at the same time.
set -e
: "${DEHAZE_DATA:?name the folder of the photos}"
clean=$DEHAZE_DATA/clean
kodak=$clean/kodak24
out=runs/figures
mkdir -p "$out"

printed() {
    name=$1
    shift
    echo "$name: $*"
    "$@" > "$out/$name.txt" 2> "$out/$name.err" || {
        cat "$out/$name.err" >&2
        exit 1
    }
}

# Makes $out/bsds_NAME, with links to the photos that BSDS500's NAME.txt lists.
linked() {
    rm -rf "$out/bsds_$1"
    mkdir "$out/bsds_$1"
    while read -r photo; do
        ln -s "$clean/bsds500/$photo" "$out/bsds_$1/"
    done < "$clean/bsds500/$1.txt"
}

# README.md, docs/quality.md, docs/evaluation.md
pairs() {
    printed pairs dehaze evaluate reside --root "$DEHAZE_DATA" --no-ceilings --overwrite --output "$out/reside" \
        --subset sots-indoor,sots-outdoor,i-haze,o-haze,dense-haze,nh-haze --method ours --method cap
}

# docs/quality.md, the model card
rendered() {
    linked test
    printed clear dehaze evaluate folder "$kodak" --gt "$kodak" --no-ceilings --overwrite --output "$out/clear"
    printed ablation dehaze evaluate folder "$out/bsds_test" --render haze --limit 20 --no-ceilings --overwrite \
        --output "$out/ablation" --method dcp --method cap --method ours --method ours:recovery=affine \
        --method ours:cross_replace_steps=0.8,self_replace_steps=0.4 --method ours:null_text=delete \
        --method ours:solver=ddim --method ours:max_iterations=3 \
        --method ours:solver=anderson,steps=6,max_iterations=4 --method ours:steps=20 --method ours:short_side=48
    printed validate python -m training validate --data "$DEHAZE_DATA" --photos 40
    printed sheet python -m training sheet --kodak "$kodak"
    printed lightness python benchmarks/lightness.py "$DEHAZE_DATA/real_hazy"
}

# docs/editing.md
words() {
    printed words-6 dehaze evaluate appearance "$kodak" --limit 6 --output "$out/words-6" \
        --method swap --method "swap, no control"
    printed words-2 dehaze evaluate appearance "$kodak" --limit 2 --output "$out/words-2" \
        --method swap --method "swap, no control" --method refine --method "refine, no control" \
        --method "reweight 0" --method "reweight -1" --method replace
    printed words-1 dehaze evaluate appearance "$kodak" --limit 1 --words haze,night --output "$out/words-1" \
        --method refine --method "refine, guidance 1.5" --method "refine, guidance 1.5, null-text" \
        --method "refine, guidance 1.5, negative-prompt" --method "refine, guidance 1.5, direct" \
        --method "refine, strength 1.3" --method "refine, strength 1.3 fresh"
}

# docs/inversion.md, docs/notes/inversion.md
inversion() {
    printed inversion dehaze evaluate inversion "$kodak" --render haze --limit 2 --steps 10 \
        --output "$out/inversion" --method ddim --method best --method fixed-point:iterations=10 \
        --method fixed-point --method renoise --method renoise-3 --method anderson \
        --method renoise-regularised:iterations=10
    for steps in 10:12 20:6 50:3; do
        printed "inversion-${steps%:*}" dehaze evaluate inversion "$kodak" --render haze \
            --limit "${steps#*:}" --steps "${steps%:*}" --output "$out/inversion-${steps%:*}" \
            --method ddim --method best --method fixed-point:iterations=10
    done
    printed solvers dehaze evaluate inversion "$kodak" --render haze --limit 2 --steps 10 --guidance 1,3 \
        --output "$out/solvers" --method ddim --method easyinv --method fixed-point:iterations=3 \
        --method damped:iterations=3 --method averaged:iterations=3 --method anderson:iterations=3 \
        --method nesterov:iterations=3 --method best --method edict --method bdia
    printed modes dehaze evaluate inversion "$kodak" --render haze --limit 2 --steps 10 --guidance 3 \
        --output "$out/modes" --method best:mode=plain --method best:mode=negative-prompt \
        --method best:mode=direct --method best:mode=null-text
    linked val
    printed convergence dehaze evaluate convergence "$out/bsds_val" --limit 2 --steps 10 --output "$out/convergence"
    printed plots dehaze invert examples/kodim19_haze.jpg -o "$out/k.safetensors" --steps 10 --plots "$out/plots"
    # docs/images/inversion.png is $out/solvers/inversion.png without the panels of seconds.
    cp "$out/plots/residuals.png" docs/images/inversion-residuals.png
    cp "$out/plots/contraction.png" docs/images/inversion-contraction.png
    cp "$out/convergence/convergence.png" docs/images/inversion-paths.png
}

# docs/papers.md
papers() {
    printed papers dehaze evaluate inversion "$kodak" --render haze --limit 2 --steps 10 \
        --output "$out/papers" --method ddim --method fixed-point:iterations=2 --method fixed-point \
        --method averaged --method anderson --method ddim:predictor=ife \
        --method fixed-point:predictor=ife,iterations=2
    printed papers-convergence dehaze evaluate convergence "$kodak" --limit 1 --steps 10 \
        --output "$out/papers-convergence"
    printed captions dehaze evaluate inversion "$kodak" --captions examples/kodak24.tsv --limit 2 --steps 10 \
        --guidance 2 --output "$out/captions" --method ddim --method fixed-point:iterations=2 \
        --method fixed-point --method anderson --method edict --method ddim:mode=null-text
    printed predictors dehaze evaluate predictors "$kodak" --limit 2 --steps 10 --output "$out/predictors"
    for guidance in 1 3; do
        printed "variants-$guidance" dehaze evaluate variants "$kodak" --render haze --limit 6 \
            --guidance "$guidance" --figure png --overwrite --output "$out/variants-$guidance"
    done
}

# docs/speed.md: the columns without a time
peers() {
    printed peers python benchmarks/peers.py --photos examples --limit 2 --steps 10 --plot docs/images/peers.png
    printed peers-2 python benchmarks/peers.py --limit 1 --steps 10 --guidance 2
}

# docs/video.md
clips() {
    printed flicker-08 python benchmarks/video_flicker.py "$kodak/kodim08.png" --frames 14 --ablate
    for photo in 16 23; do
        printed "flicker-$photo" python benchmarks/video_flicker.py "$kodak/kodim$photo.png" --frames 14
    done
    for photo in abbey_sun_asztnlqhlrvirneh canal_urban_sun_bioizsmryxlratmt; do
        printed "flicker-$photo" python benchmarks/video_flicker.py "$clean/sun_hays80/$photo.jpg" \
            --frames 14 --size 720x480
    done
}

# The pictures of README.md, docs/editing.md and docs/inversion.md
pictures() {
    sh docs/edit/pictures.sh > "$out/pictures.txt" 2>&1
    printed example dehaze run examples/kodim19_haze.jpg -o "$out/example" --save transmission,attention --overwrite
    cp "$out"/example/kodim19_haze.jpg* docs/example
}

for part in ${*:-pairs rendered words inversion papers peers clips pictures}; do
    "$part"
done
