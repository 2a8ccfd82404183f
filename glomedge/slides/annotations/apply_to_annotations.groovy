// Puts the class and the probability that glomedge found onto your own annotations. Research use only.
//
// 1. Open the image in QuPath 0.5 or later and drag <slide>.geojson onto it: the answers come in as detections.
// 2. Open this file in the script editor and run it. "Run for project" does every image whose answers are in.
//
// An annotation is found by the id that the answer has in its metadata, never by its shape. Annotations without an
// answer stay as they are. The class that an annotation had stays in the answer ("Annotation class" in its metadata).

def ANNOTATION_ID = 'Annotation id'
def MODEL = 'Model SHA-256'
def PROBABILITY = 'Probability globally sclerotic'

// getID in QuPath's releases; some builds between them call it getId.
def idOf = { (it.respondsTo('getID') ? it.getID() : it.getId()).toString().toLowerCase() }

def own = getAnnotationObjects().collectEntries { [(idOf(it)): it] }
def answers = getDetectionObjects().findAll { it.getMetadata()[ANNOTATION_ID] && it.getMetadata()[MODEL] }
def changed = [], unclear = 0, unanswered = 0, unknown = 0

answers.groupBy { it.getMetadata()[ANNOTATION_ID].toLowerCase() }.each { id, found ->
    def annotation = own[id]
    def answer = found[0]
    def probability = answer.getMeasurementList().get(PROBABILITY)
    if (annotation == null) {
        unknown++
    } else if (found.size() > 1) {
        unclear++
    } else if (probability == null || Double.isNaN(probability as double)) {
        unanswered++
    } else {
        annotation.setPathClass(answer.getPathClass())
        annotation.getMeasurementList().put(PROBABILITY, probability as double)
        changed << annotation
    }
}

if (changed) {
    fireHierarchyUpdate()
}
println "${changed.size()} annotations have glomedge's class and probability now."
if (!answers) {
    println 'There is no answer of glomedge in this image. Drag <slide>.geojson onto it first.'
}
if (unclear) {
    println "${unclear} annotations have several answers and were not changed. Delete the detections of all runs but one."
}
if (unanswered) {
    println "${unanswered} annotations could not be classified and were not changed."
}
if (unknown) {
    println "${unknown} answers belong to annotations that are not in this image, or had no QuPath id in the file."
}
